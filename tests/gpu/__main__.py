"""Test and measure the project on one GPU: python -m tests.gpu --help, or make test-gpu.

The parts run one after another in order of worth, each in a process of its own with a time limit, and each leaves a
JSON file that is written after every result: whatever ends the run early, nothing that was measured is lost.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError, exit_on_user_error
from common.files import write_json
from options.parser import Parser
from options.values import POSITIVE
from tests.gpu.options import DRY_RUN, REPOSITORY, Options


class Part(NamedTuple):
    """A module of tests/gpu, the seconds that it may take on a GPU, and what it is in words."""

    module: str
    limit: int
    title: str


PARTS = (
    Part("checks", 120, "tests that only a GPU can answer"),
    Part("records", 190, "cifar10_94, five seeds, beside airbench94_muon.py"),
    Part("loop", 90, "the loop over the bare model, waits for the GPU, share of time that it is busy"),
    Part("modes", 100, "eager, compiled, CUDA graphs, exported: cnn, whitened_cnn, ResNet-50"),
    Part("decoding", 90, "images/s that live decoding can feed, and does under ResNet-50"),
    Part("recipes", 520, "cifar10_96, cifar100_75, cifar10_97"),
)
BUDGET = 540
DRY_RUN_LIMIT = 600  # seconds a part, and DRY_RUN_BUDGET for all, so that a slow or busy CPU gets through
DRY_RUN_BUDGET = 3600


def main() -> None:
    """Run the parts and print what they measured; exit code 1 when one of them failed or was cut off."""
    with exit_on_user_error():
        args = parse()
        folder = Path(args.output_dir or f"runs/gpu-{datetime.now().strftime('%Y%m%d-%H%M%S')}")
        folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + args.budget
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch, ThreadPoolExecutor(args.jobs) as pool:

        def run(part: Part) -> str:
            own_scratch = Path(scratch) / part.module
            own_scratch.mkdir()
            options = Options(args.dry_run, args.data_dir, args.airbench, str(own_scratch))
            limit = min(DRY_RUN_LIMIT if args.dry_run else part.limit, deadline - time.monotonic())
            return run_part(part, options, folder, limit)

        wanted = [part for part in PARTS if part.module in args.parts]
        statuses = list(pool.map(run, wanted))
    print(f"written  {folder}/*.json")
    sys.exit(any(status != "done" for status in statuses))


def parse() -> argparse.Namespace:
    """Parse the options.

    Raises:
        UserError: an unknown option or part, no GPU, or a folder that is not there.
    """
    parser = Parser(prog="python -m tests.gpu", description="Test and measure the project on one GPU.")
    add = parser.add_argument
    names = [part.module for part in PARTS]
    add("--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"some of {', '.join(names)}")
    add(
        "--budget",
        type=POSITIVE,
        metavar="SECONDS",
        help=f"for all parts (default: {BUDGET}; of a dry run {DRY_RUN_BUDGET})",
    )
    add(
        "--data-dir",
        default=os.environ.get("SAMELOOP_DATA"),
        metavar="DIR",
        help="a folder that holds cifar10/ and cifar100/ (default: $SAMELOOP_DATA, else the Hub)",
    )
    add("--airbench", metavar="FILE", help="airbench94_muon.py of KellerJordan/cifar10-airbench, to run beside ours")
    add("--output-dir", metavar="DIR", help="for the JSON files (default: runs/gpu-TIME)")
    add("--dry-run", action="store_true", help="everything, but tiny and on the CPU, to see that it works")
    add("--jobs", type=POSITIVE, default=1, metavar="N", help="parts at once, of a dry run (default: %(default)s)")
    args = parser.parse_args()
    if args.jobs > 1 and not args.dry_run:
        raise UserError("--jobs: parts that run at once would slow each other down: leave it out, or give --dry-run")
    for option, path in (("--data-dir", args.data_dir), ("--airbench", args.airbench)):
        if path and not Path(path).exists():
            raise UserError(f"{option} {path}: there is no such file or folder")
    args.budget = args.budget or (DRY_RUN_BUDGET if args.dry_run else BUDGET)
    args.data_dir = args.data_dir and str(Path(args.data_dir).resolve())
    args.airbench = args.airbench and str(Path(args.airbench).resolve())
    if not args.dry_run:
        import torch  # takes seconds, so that what is mistyped is answered first

        if not torch.accelerator.is_available():
            raise UserError("there is no GPU that PyTorch can use; --dry-run goes through everything on the CPU")
    return args


def run_part(part: Part, options: Options, folder: Path, limit: float) -> str:
    """Run one part for at most `limit` seconds, write its JSON and print it; returns "done", "failed" or "cut off"."""
    path = folder / f"{part.module}.json"
    start = time.monotonic()
    status, log = "cut off", f"no time was left: {limit:.0f} s"
    if limit > 1:
        status, log = run_process([part.module, str(path), options.to_json(), str(os.getpid())], options.dry_run, limit)
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"part": part.module, "measured": []}
    content |= {"status": status, "seconds": round(time.monotonic() - start, 1), "limit_seconds": round(limit)}
    if status != "done":
        content["log"] = log.splitlines()[-40:]
    write_json(path, content)
    print(as_text(part, content), flush=True)
    return status


def run_process(arguments: list[str], dry_run: bool, limit: float) -> tuple[str, str]:
    """(status, all that it printed) of `python -m tests.gpu.part`, killed with its children after `limit` seconds."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if dry_run:  # in which the threads of the parts that run at once must not spin while they wait for one another
        environment |= {DRY_RUN: "1", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.part", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        log, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "cut off", process.communicate()[0]
    return "failed" if process.returncode else "done", log


def as_text(part: Part, content: dict) -> str:
    """A part as lines for the screen: what it is, then each result in a line."""
    lines = [f"{part.module}: {part.title}: {content['status']} after {content['seconds']:.0f} s"]
    lines += ["  " + ", ".join(f"{key} {_plain(value)}" for key, value in row.items()) for row in content["measured"]]
    lines += ["  | " + line for line in content.get("log", [])]
    return "\n".join([*lines, ""])


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

"""Train beside what else people train with: python -m benches.peers --help.

python -m benches.peers cifar --python timm=.venv/bin/python --script timm=pytorch-image-models/train.py
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from common import console
from common.errors import UserError, exit_on_user_error
from options.peers import PeersOptions, parse_peers


def compare(args: PeersOptions) -> None:
    """Run the job that `args` asks for, print its table and write peers.json."""
    console.status("looking for the peers")
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from filelock import FileLock

    from benches.peers import report
    from benches.peers.catalog import PEERS
    from benches.peers.jobs import JOBS
    from benches.peers.layout import lay_out
    from benches.peers.rounds import Bench, look, plan_epochs, run_rounds
    from common.files import write_json
    from engine.runtime.hardware import bf16_pays, cpu_name, threads_per_process

    _check_names(args, PEERS)
    job = JOBS[args.job]
    if args.train_images:
        job = replace(job, train=args.train_images, val=args.train_images // 4)
    if job.seconds is not None:
        job = replace(job, seconds=60 * args.minutes)
    folder = Path(args.output_dir or f"runs/peers-{datetime.now().strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    kept = report.kept(folder / "peers.json", args.job, PEERS)
    names = args.peers or [name for name in PEERS if args.job in PEERS[name].jobs]
    entries = [look(PEERS[name], args.job, job, args.python.get(name), args.script.get(name)) for name in names]
    for entry in entries:
        earlier = kept.pop(entry.peer.name, None)
        entry.outcomes = earlier.outcomes if earlier else []
        if job.seconds is not None:  # 0: to be found out
            entry.epochs = args.epochs.get(entry.peer.name, earlier.epochs if earlier else 0)
    console.status("writing the images")
    bench = Bench(
        job=job,
        layout=lay_out(job, args.data_dir, folder.absolute() / "images"),
        bf16=bf16_pays("cpu"),
        weights=args.weights if job.pretrained else None,
        folder=folder.absolute() / "trainings",
        alone=lambda: FileLock(args.lock) if args.lock else nullcontext(),
    )
    precision = "bf16 where a peer has it" if bench.bf16 else "fp32"
    console.say(f"{job.title}; {cpu_name()}, {threads_per_process()} threads, {precision}")
    for entry in entries:
        if job.seconds is not None and entry.missing is None and not entry.epochs:
            plan_epochs(entry, bench)
    known = [*entries, *kept.values()]
    for _ in run_rounds(entries, bench, args.rounds):
        write_json(folder / "peers.json", {"job": args.job, "cpu": cpu_name(), "peers": report.as_dict(known)})
    console.say(report.as_text(job, known))
    console.say(f"written  {folder / 'peers.json'}")


def _check_names(args: PeersOptions, known: dict) -> None:
    for option in ("peers", "python", "script", "epochs"):
        for name in getattr(args, option):
            if name not in known:
                raise UserError(f"--{option}: there is no peer '{name}': give one of {', '.join(known)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's)."""
    with exit_on_user_error():
        compare(parse_peers(argv))


if __name__ == "__main__":
    main()

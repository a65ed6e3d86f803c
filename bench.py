"""Measure how fast this machine trains: python bench.py --help.

python bench.py                       # models, the loop of train.py and its data, on made-up images
python bench.py --what loop --model timm/resnet18 --batch-sizes 64 256
python bench.py --check               # exit code 1 when a gain that was promised is lost: see LEAST_RATIOS
python bench.py --check --what layers infer  # the same of our layers, and of infer.py beside timm's loader and model
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import train  # its loop is what is measured
from common import console, openmp
from common.errors import UserError, exit_on_user_error
from options.bench import BenchOptions, parse_bench

if TYPE_CHECKING:
    from accelerate import Accelerator

    from benches.budget import Budget
    from benches.report import Section

# Of --check: the loop's speed over the bare model's, beside a busy process over alone, a step with our layers over one
# with PyTorch's own, and infer.py over timm's.
LEAST_RATIOS = {"loop": 0.9, "beside": 1 / 2.2, "layers": 1.5, "infer": 1.5}
# Of the budget: what compiles, and learns, takes most.
ITS_OWN_BATCHES = ("decode", "infer", "transform")  # whatever --batch-sizes says
WEIGHTS = {
    "forward": 3,
    "train": 3,
    "loop": 2,
    "beside": 2,
    "layers": 2,
    "conv": 2,
    "data": 1,
    "decode": 1,
    "infer": 3,
    "transform": 3,
    "scaling": 3,
    "ddp": 3,
}


def bench(args: BenchOptions) -> int:
    """Measure what `args` asks for, print it and write bench.json and bench.png; returns the exit code."""
    console.status("loading PyTorch")
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from benches import chart, report, timing
    from benches.budget import Budget
    from common.files import write_json
    from engine.checkpoints.pretrained import completed
    from engine.output.run_dir import check_folder, environment, make_new
    from engine.runtime.accelerator import describe, start_accelerator

    budget = Budget(args.budget)
    folder = Path(args.output_dir or f"runs/bench-{datetime.now().strftime('%Y%m%d-%H%M%S')}")
    check_folder(folder, parameters=0, may_exist=True, keep=0)
    accelerator, args = start_accelerator(args)
    args = completed(args)
    if accelerator.num_processes > 1:
        raise UserError("bench.py measures one process: start it with 'python bench.py'")
    _refuse_early(args, accelerator)
    facts = environment(accelerator)
    console.clear()
    versions = f"torch {facts['packages']['torch']}, accelerate {facts['packages']['accelerate']}"
    print(f"{facts['cpu']}, {facts['memory_gib']} GiB; {describe(accelerator)}; {versions}")
    print(
        f"images/s: the median of {args.rounds} interleaved rounds after a warm-up, and the lowest and highest of them;"
    )
    print("speed: over the first line's; difference: largest, over the first line's largest value\n", flush=True)
    sections = []
    for section in _measure(args, accelerator, budget):
        console.say(report.as_text(section))
        sections.append(section)
    peak = timing.peak_rss()
    if peak is not None:
        print(f"the whole process held at most {peak / 2**30:.2f} GiB of main memory")
    content = {"environment": facts, "options": vars(args), "peak_rss_bytes": peak}
    if args.output_dir is None:
        folder = make_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", content | {"benches": [report.as_dict(section) for section in sections]})
    chart.draw(sections, folder / "bench.png", f"{facts['cpu']}, {describe(accelerator)}, {versions}")
    print(f"written  {folder / 'bench.json'}, {folder / 'bench.png'}")
    return _check(sections) if args.check else 0


def _refuse_early(args: BenchOptions, accelerator: "Accelerator") -> None:
    """Raise UserError for a model or an augmentation that the images do not suit, before minutes are spent."""
    from benches import conv, group, layers, transform
    from benches.images import make_images
    from engine.build import build_model, build_task

    if {"scaling", "ddp"} & {*args.what}:
        group.check(args, accelerator.device)
    if args.what == ["transform"]:
        transform.refuse_early(args)
        return
    images = make_images(args.image_size, args.channels, epoch_length=1)
    build_model(args, build_task(args, images, accelerator.device), images, sharded=False)
    if "layers" in args.what:
        layers.refuse_early(args, accelerator.device)
    if "conv" in args.what:
        conv.refuse_early(args)


def _measure(args: BenchOptions, accelerator: "Accelerator", budget: "Budget") -> Iterator["Section"]:
    """One bench after another, for each batch size, as long as there is time."""
    parts = [(what, size) for what in args.what for size in ([0] if what in ITS_OWN_BATCHES else args.batch_sizes)]
    for (what, batch_size), share in zip(parts, budget.divide([WEIGHTS[what] for what, _ in parts]), strict=True):
        if share.is_spent() and (what, batch_size) != parts[0]:
            console.say(f"{what}: left out, as --budget {args.budget} is spent; give it more seconds\n")
            continue
        for section in _measure_part(what, args, accelerator, batch_size, share):
            rounds = min((len(row.timing.seconds) for row in section.rows if row.timing), default=args.rounds)
            if rounds < args.rounds:
                section.notes.append(f"{rounds} of {args.rounds} rounds: a larger --budget has time for more")
            yield section


def _measure_part(
    what: str, args: BenchOptions, accelerator: "Accelerator", batch_size: int, budget: "Budget"
) -> Iterator["Section"]:
    from benches import (
        beside,
        conv,
        data,
        ddp,
        decode,
        forward,
        infer,
        layers,
        loop,
        scaling,
        scaling_report,
        transform,
    )

    device, precision = accelerator.device, accelerator.mixed_precision
    if what == "transform":
        yield transform.measure(args, accelerator, budget)
    elif what == "decode":
        yield decode.measure(args, budget)
    elif what == "infer":
        yield infer.measure(args, accelerator, budget)
    elif what == "loop":
        yield loop.measure(args, accelerator, batch_size, train.begin, train.steps, budget)
    elif what == "beside":
        yield beside.measure(args, accelerator, batch_size, train.begin, train.steps, budget)
    elif what == "scaling":
        outcome = scaling.measure(args, accelerator, batch_size, train.begin, train.steps, budget)
        yield scaling_report.section(args, accelerator, outcome)
    elif what == "ddp":
        yield ddp.measure(args, accelerator, batch_size, train.begin, train.steps, budget)
    elif what == "layers":
        yield layers.measure(args, device, precision, batch_size, budget)
    elif what == "conv":
        yield from conv.measure(args, device, precision, batch_size, budget)
    elif what == "data":
        for steps, share in zip(data.STEPS, budget.divide([1] * len(data.STEPS)), strict=True):
            yield data.measure(args, device, batch_size, steps, share)
    else:
        yield forward.measure(what, args, device, precision, batch_size, budget)


def _check(sections: list["Section"]) -> int:
    lost = False
    for section in sections:
        least, ratio = LEAST_RATIOS[section.what], section.facts["ratio"]["median"]
        lost |= ratio < least
        print(f"check    {section.what}: ratio {ratio:.3f}, {least:.2f} {'NOT ' * (ratio < least)}reached")
    return int(lost)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's) and exit."""
    openmp.wait_briefly()
    with exit_on_user_error():
        code = bench(parse_bench(argv))
    sys.exit(code)


if __name__ == "__main__":
    main()

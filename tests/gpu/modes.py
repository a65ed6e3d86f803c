"""The ways to run a model, forward and in training: eager, compiled, as CUDA graphs, exported."""

from collections.abc import Callable

from benches import forward
from benches.budget import UNLIMITED
from benches.report import Row, Section
from engine.runtime.accelerator import start_accelerator
from options.bench import parse_bench
from tests.gpu.options import Options

JOBS = (
    "--model cnn --image-size 32 --batch-sizes 512",
    "--model whitened_cnn --image-size 32 --batch-sizes 2000",
    "--model timm/resnet50 --image-size 224 --batch-sizes 128",
)
TINY = ("--model cnn --model-arg width=2 --image-size 8 --batch-sizes 2 --cpu --mixed-precision no",)
MODES = ("eager", "torch.compile", "CUDA graphs", "torch.export")  # the deprecated ones are not worth a GPU's minutes


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """A result for each model, direction and way."""
    forward.MODES = {name: forward.MODES[name] for name in MODES if not (options.dry_run and name == "torch.compile")}
    for job in TINY if options.dry_run else JOBS:
        args = parse_bench([*job.split(), "--rounds", "2" if options.dry_run else "3"])
        accelerator, args = start_accelerator(args)
        for what in ("forward", "train"):
            where = accelerator.device, accelerator.mixed_precision
            section = forward.measure(what, args, *where, args.batch_sizes[0], UNLIMITED)
            for row in section.rows:
                record(as_result(section, row))


def as_result(section: Section, row: Row) -> dict:
    """A row of a bench as a result: images/s, and its speed over the first row's."""
    result = {"bench": section.title, "mode": row.variant}
    if row.timing is None:
        return result | {"not_run": row.reason}
    images_per_second, lowest, highest = row.speed
    return result | {
        "images_per_second": images_per_second,
        "lowest": lowest,
        "highest": highest,
        "speed_over_first": section.share(row),
        "difference": row.difference,
        "peak_memory_bytes": row.timing.peak_memory,
    }

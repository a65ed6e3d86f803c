"""Bench `infer`: photos from JPEG files to logits, as timm's loader and model and as infer.py does it."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benches.budget import Budget
from benches.decode import HEIGHT, SIDE, WIDTH, cache_in, write_photos
from benches.report import Row, Section, round_ratios, spread
from benches.timing import interleave, warmed_up
from data.dataset import load_images
from engine.build import build_model, build_task
from options.bench import BenchOptions, timm_model
from tasks.base import Task
from tasks.inference import fused_where_it_pays, infer_files

PHOTOS, BATCH_SIZE = 128, 32  # of a call
TIMM, EXACT, OURS = "timm's loader and model", "infer.py --exact", "infer.py"


def measure(args: BenchOptions, accelerator: Accelerator, budget: Budget) -> Section:
    """Time a call of each over a folder of photos; the model is --model, or MobileNetV2 where none is named.

    Args:
        args: the options of bench.py.
        accelerator: of this process.
        budget: for warming up and all rounds.
    """
    name = timm_model(args, "timm/mobilenetv2_100")
    options = replace(args, model=name, input_size=None, image_size=SIDE, tta="none", augment="none")
    with tempfile.TemporaryDirectory() as place, cache_in(Path(place)):
        root = Path(place) / "photos"
        size = write_photos(root, PHOTOS)
        data = load_images(str(root), image_size=SIDE, val_fraction=0, decode="live")
        task = build_task(options, data, accelerator.device)
        model = build_model(options, task, data, sharded=False).eval()
        model = model.to(accelerator.device, memory_format=task.memory_format)
        paths = sorted(root.rglob("*.jpg"))
        faster = fused_where_it_pays(model, task, len(paths), accelerator)
        calls = {
            TIMM: _of_timm(root, model, task),
            EXACT: _ours(paths, model, task, accelerator),
            OURS: _ours(paths, faster, task, accelerator),
        }
        timed = warmed_up(calls, accelerator.device, budget)
        timings = interleave(timed, args.rounds, accelerator.device, budget)
        expected, found = calls[EXACT](), calls[OURS]()
    difference = float((found - expected).abs().max() / expected.abs().max())
    rows = [Row(row, PHOTOS, timing, difference if row == OURS else None) for row, timing in timings.items()]
    ratio = spread(round_ratios(timings[TIMM], timings[OURS]))
    title = f"infer: {name}, {WIDTH}x{HEIGHT} JPEGs of {size // 1000} kB to {SIDE}x{SIDE}, {BATCH_SIZE} a batch"
    return Section("infer", title, rows, facts={"batch_size": BATCH_SIZE, "bytes": size, "ratio": ratio})


def _of_timm(root: Path, model: nn.Module, task: Task) -> Callable[[], Tensor]:
    """What timm's inference.py does for each batch, with two workers, which stay from call to call."""
    from timm.data import create_dataset, create_loader

    shape, device = (3, SIDE, SIDE), task.device
    loader = create_loader(
        *(create_dataset("", root=str(root)), shape, BATCH_SIZE),
        use_prefetcher=False,
        num_workers=2,
        crop_pct=1.0,
        interpolation="bicubic",
        mean=task.mean,
        std=task.std,
        persistent_workers=True,
        device=device,
    )

    def call() -> Tensor:
        # As this layout is what timm's script computes in where nobody asks for another.
        model.to(memory_format=torch.contiguous_format)
        try:
            with torch.inference_mode():
                return torch.cat([model(images.to(device)) for images, _ in loader])
        finally:
            model.to(memory_format=task.memory_format)

    return call


def _ours(paths: list[Path], model: nn.Module, task: Task, accelerator: Accelerator) -> Callable[[], Tensor]:
    def call() -> Tensor:
        batches = infer_files(lambda images: task.predict(model, images), task, paths, accelerator, BATCH_SIZE, [])
        return torch.cat([logits for _, logits in batches])

    return call

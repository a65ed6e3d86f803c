"""The end of a run that makes images: the test set, looked at once, in metrics and pictures."""

import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from common import console
from common.files import write_json
from data.dataset import DataSplits
from data.loader import ImageDataset
from tasks.base import Task
from tasks.evaluate import sum_over
from tasks.image_to_image.metrics import SUMS, WITHIN, test_metrics, test_sums

CURVES = {"loss": "loss (mean absolute error)", "accuracy": f"share of pixels within {WITHIN[0]} of the target"}
EXAMPLES = 10


def test_report(
    task: Task,
    folder: Path,
    model: nn.Module,
    data: DataSplits,
    accelerator: Accelerator,
    batch_size: int,
) -> tuple[dict, None]:
    """Test the model; the main process writes test.json and examples.png into `folder`.

    Returns:
        What test.json holds, and None: there are no probabilities.
    """
    start = time.perf_counter()
    nothing = dict.fromkeys(SUMS, task.count(0))
    sums = sum_over(model, task.predict, task, test_sums, nothing, data.test, accelerator, batch_size)
    seconds = time.perf_counter() - start
    metrics = test_metrics(sums)
    report = {**metrics, "seconds": seconds, "images_per_second": metrics["samples"] / seconds, "data": data.notes}
    if accelerator.is_main_process:
        write_json(folder / "test.json", report)
        console.status("drawing pictures")
        _plot_examples(folder / "examples.png", model, task, data, accelerator, metrics)
    return report, None


def _plot_examples(
    path: Path, model: nn.Module, task: Task, data: DataSplits, accelerator: Accelerator, metrics: dict
) -> None:
    """Ten images from all over the test set, not chosen by how they turned out."""
    from tasks.image_to_image import pictures  # matplotlib takes a second to import

    count = min(EXAMPLES, len(data.test))
    ids = data.test.ids[:: max(1, len(data.test) // count)][:count]
    batch = ImageDataset(data.test.arrays).batch(ids).to(accelerator.device)
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        outputs = task.predict(model, batch.images).float()
    shown = [images.permute(0, 2, 3, 1).cpu().numpy() for images in (task.targets(batch), outputs)]
    title = f"{data.name}, test set: {_in_words(metrics)}"
    pictures.plot_translations(batch.images.cpu().numpy(), *shown, path, title)


def plot_history(folder: Path, history: list[dict], name: str, test: dict) -> None:
    """Draw curves.png, loss.png and accuracy.png of a run with its test, from what train.json and test.json hold."""
    from tasks import curves

    console.status("drawing curves")
    curves.plot_curves(history, folder / "curves.png", name, test, CURVES)
    for key, words in CURVES.items():
        curves.plot_curve(history, key, folder / f"{key}.png", f"{name}: {words}", test[key])


def final_metrics(test: dict) -> dict[str, float | None]:
    """What trackers show of the test."""
    return {name: test[name] for name in ("accuracy", "loss", "psnr", "ssim")}


def thumbnails(task: Task, folder: Path, data: DataSplits, test: dict, probabilities: None) -> dict[str, np.ndarray]:
    """Small pictures, uint8 (H, W, 3), for trackers: those of the report in `folder`, made smaller."""
    from common import plot_style

    return {"examples": plot_style.read_small(folder / "examples.png")}


def headline(test: dict) -> str:
    """The test in one line."""
    return f"test: {_in_words(test)}, {test['samples']:,} images"


def _in_words(test: dict) -> str:
    more = [f"PSNR {test['psnr']:.1f} dB"] * (test["psnr"] is not None)
    more += [f"SSIM {test['ssim']:.4f}"] * (test["ssim"] is not None)
    shares = (test["accuracy"], test[f"within_{WITHIN[1]}"])
    near = [f"{console.percent(share, 3)} within {within}" for share, within in zip(shares, WITHIN, strict=True)]
    return ", ".join([f"{' and '.join(near)} of the target", *more])

"""The end of a run that makes images: the test set, looked at once, in figures and pictures."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from common import console, plot_style
from common.files import write_json
from data.dataset import ImageData
from data.loader import ArrayDataset
from tasks import curves
from tasks.evaluate import sum_over
from tasks.image_to_image import pictures
from tasks.image_to_image.task import WITHIN, Transformation

PICTURES = ("examples.png", "curves.png", "loss.png", "accuracy.png")  # as they are drawn
CURVES = {"loss": "loss (mean absolute error)", "accuracy": f"share of pixels within {WITHIN[0]} of the target"}
EXAMPLES = 10
LEAST_SIDE = 6  # pixels that the window of the structural similarity needs


def test_report(
    folder: Path,
    model: nn.Module,
    task: Transformation,
    data: ImageData,
    accelerator: Accelerator,
    batch_size: int,
) -> tuple[dict, None]:
    """Test the model; the main process writes test.json and examples.png into `folder`.

    Returns:
        What test.json holds, and None: there are no probabilities.
    """
    start = time.perf_counter()
    nothing = task.no_totals()[0].repeat(6)
    sums = sum_over(model, task.predict, task, test_sums, nothing, data.test, accelerator, batch_size)
    seconds = time.perf_counter() - start
    figures = test_figures(sums)
    report = {**figures, "seconds": seconds, "images_per_second": figures["samples"] / seconds, "data": data.notes}
    if accelerator.is_main_process:
        write_json(folder / "test.json", report)
        console.status("drawing pictures")
        _plot_examples(folder / "examples.png", model, task, data, accelerator, figures)
    return report, None


def test_sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sums over images of what `test_figures` divides: (6,).

    Args:
        outputs, targets: float (B, C, H, W) in 0..1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    error = (outputs - targets).abs().flatten(1)
    means = [(error < within).float().mean(1) for within in WITHIN] + [error.mean(1), error.square().mean(1)]
    if min(targets.shape[-2:]) >= LEAST_SIDE:
        means.append(structural_similarity_index_measure(outputs, targets, data_range=1.0, reduction="none"))
    else:
        means.append(torch.full_like(means[0], math.nan))
    return torch.stack([*(mean.sum() for mean in means), torch.full_like(means[0][0], len(targets))])


def test_figures(sums: list[float]) -> dict:
    """Figures of a test from `test_sums`, strict JSON.

    `accuracy` and `within_0.01` are shares of pixels that near to their target; `loss` the mean absolute error; `psnr`
    in dB, of the mean squared error over all pixels of all images (None where it is 0); `ssim` the mean structural
    similarity (Wang et al. 2004; None for images under 6 pixels).
    """
    *totals, count = sums
    near, nearest, absolute, squared, similarity = (total / count for total in totals)
    return {
        "accuracy": near,
        f"within_{WITHIN[1]}": nearest,
        "loss": absolute,
        "psnr": -10 * math.log10(squared) if squared else None,
        "ssim": None if math.isnan(similarity) else similarity,
        "samples": int(count),
    }


def _plot_examples(
    path: Path, model: nn.Module, task: Transformation, data: ImageData, accelerator: Accelerator, figures: dict
) -> None:
    """Ten images from all over the test set, not chosen by how they turned out."""
    count = min(EXAMPLES, len(data.test))
    ids = data.test.ids[:: max(1, len(data.test) // count)][:count]
    batch = ArrayDataset(data.test.arrays).__getitems__(ids).to(accelerator.device)
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        outputs = task.predict(model, batch.images).float()
    shown = [images.permute(0, 2, 3, 1).cpu().numpy() for images in (task.targets(batch), outputs)]
    title = f"{data.name}, test set: {_in_words(figures)}"
    pictures.plot_translations(batch.images.cpu().numpy(), *shown, path, title)


def plot_history(folder: Path, history: list[dict], name: str, test: dict) -> None:
    """Draw curves.png, loss.png and accuracy.png of a run with its test, from what train.json and test.json hold."""
    console.status("drawing curves")
    curves.plot_curves(history, folder / "curves.png", name, test, CURVES)
    for key, words in CURVES.items():
        curves.plot_curve(history, key, folder / f"{key}.png", f"{name}: {words}", test[key])


def end_figures(test: dict) -> dict[str, float | None]:
    """What trackers show of the test."""
    return {name: test[name] for name in ("accuracy", "loss", "psnr", "ssim")}


def thumbnails(folder: Path, data: ImageData, test: dict, probabilities: None) -> dict[str, np.ndarray]:
    """Small pictures, uint8 (H, W, 3), for trackers: those of the report in `folder`, made smaller."""
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

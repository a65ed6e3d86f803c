"""How near images are to their targets: shares of right pixels, errors, structural similarity."""

import math

import torch
from torch import Tensor

from tasks.metric_sums import SAMPLES, MetricSums, means

WITHIN = (0.05, 0.01)  # a pixel is right that is this near to its target, of 0..1; the first counts as accuracy
SUMS = (*(f"within_{within}" for within in WITHIN), "absolute_error", "squared_error", "ssim", SAMPLES)
LEAST_SIDE = 6  # pixels that the window of the structural similarity needs


def test_sums(outputs: Tensor, targets: Tensor) -> MetricSums:
    """Sums over images, named as in SUMS, of what `test_metrics` divides.

    Args:
        outputs, targets: float (B, C, H, W) in 0..1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    error = (outputs - targets).abs().flatten(1)
    of_images = {f"within_{within}": (error < within).float().mean(1) for within in WITHIN}
    of_images |= {"absolute_error": error.mean(1), "squared_error": error.square().mean(1)}
    if min(targets.shape[-2:]) >= LEAST_SIDE:
        ssim = structural_similarity_index_measure(outputs, targets, data_range=1.0, reduction="none")
    else:
        ssim = torch.full_like(error[:, 0], math.nan)
    sums = {name: values.sum() for name, values in (of_images | {"ssim": ssim}).items()}
    return {**sums, SAMPLES: torch.full_like(sums["ssim"], len(targets))}


def test_metrics(sums: dict[str, float]) -> dict:
    """Metrics of a test from `test_sums`, strict JSON.

    `accuracy` and `within_0.01` are shares of pixels that near to their target; `loss` the mean absolute error; `psnr`
    in dB, of the mean squared error over all pixels of all images (None where it is 0); `ssim` the mean structural
    similarity (Wang et al. 2004; None for images under 6 pixels).
    """
    mean = means(sums)
    return {
        "accuracy": mean[f"within_{WITHIN[0]}"],
        f"within_{WITHIN[1]}": mean[f"within_{WITHIN[1]}"],
        "loss": mean["absolute_error"],
        "psnr": -10 * math.log10(mean["squared_error"]) if mean["squared_error"] else None,
        "ssim": None if math.isnan(mean["ssim"]) else mean["ssim"],
        "samples": int(sums[SAMPLES]),
    }

"""How faithful a map is to the model: what becomes of the class when the pixels that it names are taken away."""

import numpy as np
import torch
from torch import Tensor, nn

KEPT = (70, 80, 90)  # per cent of the pixels: with fewer, the blend of neighbours takes seconds an image


def road(model: nn.Module, inputs: Tensor, maps: np.ndarray, labels: list[int]) -> np.ndarray:
    """ROAD (Rong et al. 2022, "remove and debias") of each map: float32 (B,), about -0.5..0.5, larger is better.

    Pixels are replaced by a blend of their neighbours, so that the hole itself tells nothing. Half of the class's
    probability without the least relevant 10, 20 and 30 % of the pixels less that without the most relevant; a map of
    noise gets about 0.

    Args:
        model: in evaluation mode.
        inputs: float32 (B, C, h, w).
        maps: (B, h, w), larger is more relevant; where it is even, chance decides, the same each time.
        labels: the class of each map.
    """
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    targets = [ClassifierOutputSoftmaxTarget(label) for label in labels]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the noise that is added to the blend
        return ROADCombined(list(KEPT))(inputs, _ranks(maps), targets, model)


def _ranks(maps: np.ndarray) -> np.ndarray:
    """Maps whose values are 0..1 evenly: of a map that is 0 nearly everywhere no share of pixels could be cut off."""
    flat = maps.reshape(len(maps), -1)
    chance = np.random.default_rng(0).permutation(flat.shape[1])
    order = np.stack([np.lexsort((chance, row)) for row in flat])
    ranks = np.empty(flat.shape, dtype=np.float32)
    np.put_along_axis(ranks, order, np.linspace(0, 1, flat.shape[1], dtype=np.float32)[None], axis=1)
    return ranks.reshape(maps.shape)


def middle(shape: tuple[int, int, int]) -> np.ndarray:
    """Maps (B, h, w) that know nothing but that things are in the middle of photos: what a method has to surpass."""
    height, width = (np.abs(np.linspace(-1, 1, side, dtype=np.float32)) for side in shape[1:])
    return np.broadcast_to(-np.hypot(height[:, None], width[None]), shape)

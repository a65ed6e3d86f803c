"""A model with the methods that explain it: maps of many images, and how faithful they are."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.console import percent
from common.progress import track
from explain.faithfulness import middle, road
from explain.layers import Layer
from explain.methods import compute_maps
from explain.pictures import Row, heat
from tasks.classification.task import Classification

BATCH = 16  # images whose maps are computed together
MIDDLE = "middle"  # no method, but what each has to surpass


@dataclass(frozen=True)
class Explained:
    """What is explained, and by what.

    Attributes:
        name: of the weights, for titles.
        model: in evaluation mode, float32.
        task: of one view.
        methods: some of METHODS.
        layer: of the CAM methods; None where there is none of them.
    """

    name: str
    model: nn.Module
    task: Classification
    methods: list[str]
    layer: Layer | None

    def where(self) -> str:
        """For titles: the layer that the CAM methods look at; empty where there is none of them."""
        return "" if self.layer is None else f"; {self.layer.in_words()}"

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Of each class, float32 (B, K), for uint8 (B, H, W, C)."""
        with torch.no_grad():
            found = [
                self.task.probabilities(self.model(self._inputs(images[part]))).cpu() for part in _batches(len(images))
            ]
        return torch.cat(found).numpy()

    def heats(self, method: str, images: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        """The heat of a class in each image: float32 (B, H, W) in 0..1, for uint8 (B, H, W, C)."""
        found = []
        for part in track(_batches(len(images)), f"explaining by {method}", -(-len(images) // BATCH)):
            maps = compute_maps(method, self.model, self.layer, self._inputs(images[part]), list(labels[part]))
            found.append(heat(maps, images.shape[1:3]))
        return np.concatenate(found)

    def add_column(self, rows: list[Row], method: str, labels: Sequence[int], probabilities: np.ndarray) -> None:
        """Add to each row the heat of a class in its image, with the class and its probability (B, K) above."""
        images = np.stack([row.image for row in rows])
        for row, hot, label, chances in zip(
            rows, self.heats(method, images, labels), labels, probabilities, strict=True
        ):
            row.maps.append((hot, f"{self.task.class_names[label]} {percent(chances[label], 0)}"))

    def measure(self, method: str, images: np.ndarray, labels: Sequence[int]) -> tuple[dict, np.ndarray]:
        """How faithful a method (or MIDDLE) is to the model on these images, and the heats that were measured.

        Returns:
            {"faithfulness", "standard_error" (None for one image), "samples", "seconds_per_image"}, and as `heats`.
        """
        scores, heats, seconds = [], [], 0.0
        for part in track(_batches(len(images)), f"measuring {method}", -(-len(images) // BATCH)):
            inputs, these = self._inputs(images[part]), list(labels[part])
            start = time.perf_counter()
            if method == MIDDLE:
                maps = middle((len(inputs), *inputs.shape[2:]))
            else:
                maps = compute_maps(method, self.model, self.layer, inputs, these)
            seconds += time.perf_counter() - start
            scores.append(road(self.model, inputs, maps, these))
            heats.append(heat(maps, images.shape[1:3]))
        found = np.concatenate(scores).astype(np.float64)
        measured = {
            "faithfulness": found.mean(),
            "standard_error": found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else None,
            "samples": len(found),
            "seconds_per_image": seconds / len(found),
        }
        return measured, np.concatenate(heats)

    def _inputs(self, images: np.ndarray) -> Tensor:
        return self.task.inputs(torch.from_numpy(images).to(self.task.device))


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))


def in_words(method: str, measured: dict) -> str:
    """A method's measured in one line."""
    error = "" if measured["standard_error"] is None else f" ± {measured['standard_error']:.3f}"
    return f"{method:<20} faithfulness {measured['faithfulness']:6.3f}{error} (n = {measured['samples']})"

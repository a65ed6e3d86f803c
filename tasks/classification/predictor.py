"""A trained classifier to call from Python: pictures in any form in, classes and probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import UserError
from data.decode import UNREADABLE, complaint, open_image, to_array
from data.folders import find_images
from tasks.base import Task

Picture = str | Path | bytes | np.ndarray | Image.Image


@dataclass(frozen=True)
class Prediction:
    """What is seen in an image.

    Attributes:
        label: the likeliest class.
        probability: its own, 0..1.
        probabilities: of every class, the likeliest first.
        image: the file it was read from; None where it was none.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    image: str | None = None


class Predictor:
    """Predicts pictures as `infer.py` does: prepared as those that the model was trained on.

    Args:
        model: on its device, in any mode.
        task: that it was trained for, on the same device.
        batch_size: images that are computed at a time.

    Attributes:
        class_names: the name of each label.
    """

    def __init__(self, model: nn.Module, task: Task, batch_size: int = 64) -> None:
        self.model, self.task, self.batch_size = model.eval(), task, batch_size
        self.class_names = list(task.class_names)

    def __call__(self, images: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Predict one image, or several.

        Args:
            images: a file's name, encoded bytes, a PIL image or an array, uint8 (H, W), (H, W, 1) or (H, W, 3) in RGB:
                one prediction; a folder, a list of such, or an array (N, H, W, C): a list of predictions.

        Raises:
            UserError: an image cannot be read.
            TypeError: it is none of these.
        """
        if isinstance(images, str | Path) and Path(images).is_dir():
            return self._predict(find_images([str(images)])[0])
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return self._predict(list(images))
        if isinstance(images, str | Path | bytes | np.ndarray | Image.Image):
            return self._predict([images])[0]
        if not isinstance(images, Sequence):
            raise TypeError(f"an image is a file, bytes, an array or a PIL image, not a {type(images).__name__}")
        return self._predict(images)

    def _predict(self, images: Sequence[Picture]) -> list[Prediction]:
        found: list[Prediction] = []
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            pixels = torch.from_numpy(np.stack([self._prepared(image) for image in some]))
            with torch.no_grad():
                logits = self.task.predict(self.model, pixels.to(self.task.device))
            found += map(self._in_words, some, self.task.probabilities(logits).cpu())
        return found

    def _prepared(self, image: Picture) -> np.ndarray:
        """An image as the model's are, uint8 (H, W, C)."""
        height, width, channels = self.task.image_shape
        try:
            with _opened(image) as opened:
                return to_array(opened, channels, (height, width), self.task.ranges, self.task.geometry)
        except UNREADABLE as error:
            if isinstance(error, TypeError) and not isinstance(image, str | Path | bytes):
                raise
            name = str(image) if isinstance(image, str | Path) else "an image"
            raise UserError(f"cannot read {name}: {complaint(error)}") from error

    def _in_words(self, image: Picture, probabilities: Tensor) -> Prediction:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        named = {self.class_names[label]: float(probabilities[label]) for label in order}
        label = self.class_names[order[0]]
        return Prediction(label, named[label], named, str(image) if isinstance(image, str | Path) else None)


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.copy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"an array of pixels is uint8, 0 to 255, not {image.dtype}")
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    return open_image({"bytes": image, "path": None} if isinstance(image, bytes) else image)

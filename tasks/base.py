"""What is learned: how a batch becomes inputs and targets, what the loss is, what counts as right."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment.batch import Augment
from data.augment.spec import parse as parse_augment
from data.pixel_range import Ranges


class Task:
    """What every task has: images that are augmented and become a model's inputs on their device.

    Args:
        shape: (height, width, channels) of the images, in pixels.
        class_names: the name of each label; where labels are of no interest they are names all the same.
        mean, std: per channel, of pixels in 0..1.
        device: where batches are prepared.
        channels_last: memory format of the inputs.
        augment: the text of --augment.
        seed: of the augmentation.
        num_samples: size of the training part, which mixing draws partners from.
        input_size: side in pixels that images are brought to before the model sees them; None: as they are.
        interpolation: how they are, "bilinear" or "bicubic".
        ranges: by which the images' values of more than eight bits became bytes; see `data/pixel_range.py`.

    Attributes:
        image_shape: (height, width, channels) of the images; `input_shape`: (channels, height, width) of the inputs.

    Raises:
        ValueError: an augmentation does not fit the images.
    """

    train_sizes: list[int] | None = None

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        class_names: list[str],
        mean: list[float],
        std: list[float],
        device: torch.device,
        channels_last: bool = True,
        augment: str = "none",
        seed: int = 0,
        num_samples: int = 1,
        input_size: int | None = None,
        interpolation: str | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        self.class_names = class_names
        self.image_shape, self.ranges = shape, ranges or {}
        self.input_shape = (shape[2], input_size or shape[0], input_size or shape[1])
        self.interpolation = interpolation or "bilinear"
        self.mean, self.std = mean, std
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.device = device
        fill = [round(255 * m) for m in mean]
        self.augment = Augment(parse_augment(augment), seed, num_samples, fill)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        # Refuses what does not fit these images, such as a crop wider than they are, before a run has begun.
        self.augment(torch.zeros(1, *shape, dtype=torch.uint8, device=device), first, 0)

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, h, w) of the size that the model takes."""
        return self.normalise(resize(images, self.input_shape[1:], self.interpolation))

    def normalise(self, images: Tensor, jitter: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W), jittered where `Augment.jitter` says how."""
        shift, scale = self._shift, self._scale
        if jitter is not None:
            shift, scale = (shift + jitter[0]) * jitter[1], scale * jitter[1]
        normalised = torch.addcmul(shift, images.float(), scale)
        return normalised.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)

    def no_totals(self) -> Tensor:
        """Sums over nothing, for `totals` to be added to: float64 where the device has it."""
        device = self.device
        return torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def finite(loss: float | None) -> float:
    """A loss to compare by: infinite where it is no number, which train.json and checkpoints keep as None."""
    return math.inf if loss is None or math.isnan(loss) else loss


def resize(images: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """uint8 (B, H, W, C) -> uint8 (B, *size, C), with antialiasing."""
    if images.shape[1:3] == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    if images.device.type != "cpu":  # which alone resizes uint8
        planes = planes.float()
    resized = F.interpolate(planes, size, mode=interpolation, antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)

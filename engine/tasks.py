"""What is learned: how a batch becomes inputs and targets, what the loss is, what counts as right."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.batch import Augment
from data.augment.spec import parse as parse_augment
from data.loader import Batch
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


class Classification(Task):
    """One class for each image.

    Args:
        label_smoothing: share of the target spread over all classes, in training.
        train_sizes: side in pixels of the training images in each epoch; None: as they are.
        tta: views that predictions are averaged over: "none", "flip" (mirrored too) or "shift" (shifted too).
        of_every_task: see `Task`.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        train_sizes: list[int] | None = None,
        tta: str = "none",
        **of_every_task,
    ) -> None:
        super().__init__(**of_every_task)
        self.label_smoothing, self.train_sizes, self.tta = label_smoothing, train_sizes, tta

    @property
    def answer(self) -> dict[str, int]:
        """What a model's constructor is told of its answer."""
        return {"num_classes": len(self.class_names)}

    @property
    def output_shape(self) -> tuple[int]:
        """The shape of a model's output for an image: a score for each class."""
        return (len(self.class_names),)

    def targets(self, batch: Batch) -> Tensor:
        """What the outputs for a batch are scored against: labels, int64 (B,)."""
        return batch.labels

    def training_batch(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented inputs, float32 (B, C, H, W), and targets: labels int64 (B,), or float (B, K) where mixed."""
        images = self.augment(batch.images, batch.ids, epoch)
        size = self.input_shape[1:] if self.train_sizes is None else (self.train_sizes[epoch],) * 2
        images = resize(images, size, self.interpolation)
        inputs = self.normalise(images, self.augment.jitter(batch.ids, epoch))
        if not self.augment.mixes:
            return inputs, batch.labels
        one_hot = F.one_hot(batch.labels, len(self.class_names)).float()
        (images, partners), (targets, others) = inputs.chunk(2), one_hot.chunk(2)
        return self.augment.mix(images, partners, targets, others, batch.ids.chunk(2)[0], epoch)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The training loss: mean cross-entropy in nats."""
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, K) of uint8 (B, H, W, C), averaged over the views of `tta`."""
        inputs = self.inputs(images)
        if self.tta == "none":
            return model(inputs)
        if self.tta == "flip":
            return _both_sides(model, inputs)
        # Half of the weight for the image, half for it shifted by a pixel along the diagonal (as in airbench94).
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        shifted = [padded[..., i : i + height, i : i + width] for i in (0, 2)]
        return _both_sides(model, inputs) / 2 + sum(_both_sides(model, view) for view in shifted) / 4

    def totals(self, loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Sums to add up over batches: (3,) on the device, of losses, right answers, samples.

        Args:
            loss: the batch's mean loss.
            logits: (B, K).
            targets: int64 (B,), or float (B, K), whose largest counts as right.
        """
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        count = torch.full_like(self.no_totals()[0], len(labels))
        correct = (logits.argmax(1) == labels).sum()
        return torch.stack([loss.detach().to(count) * count, correct.to(count), count])

    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same sums for evaluation: plain cross-entropy, whatever the training loss is smoothed by."""
        return self.totals(F.cross_entropy(logits.float(), labels), logits, labels)

    def merit(self, record: dict) -> tuple[float, ...]:
        """What the best epoch has most of, from its entry in train.json: accuracy, then a small loss."""
        return record["val_accuracy"], -finite(record["val_loss"])

    def test_metrics(self, logits: Tensor, labels: Tensor) -> tuple[dict, np.ndarray]:
        """The figures of the test report, and the probabilities (float32 (N, K)) that they were computed from."""
        from engine.metrics import classification_metrics  # scikit-learn and evaluate take seconds to import

        probabilities = logits.float().softmax(1).numpy()
        return classification_metrics(labels.numpy(), probabilities, self.class_names), probabilities


def finite(loss: float | None) -> float:
    """A loss to compare by: infinite where it is no number, which train.json and checkpoints keep as None."""
    return math.inf if loss is None or math.isnan(loss) else loss


def _both_sides(model: nn.Module, inputs: Tensor) -> Tensor:
    return (model(inputs) + model(inputs.flip(-1))) / 2


def resize(images: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """uint8 (B, H, W, C) -> uint8 (B, *size, C), with antialiasing."""
    if images.shape[1:3] == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    if images.device.type != "cpu":  # which alone resizes uint8
        planes = planes.float()
    resized = F.interpolate(planes, size, mode=interpolation, antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)

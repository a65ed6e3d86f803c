"""What is learned: an image from an image, where pairs alone say how one becomes the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from data.loader import Batch
from data.transforms import with_torchvision
from data.transforms.spec import parse as parse_transform
from options.infer import PredictOptions
from tasks.base import Task, finite
from tasks.image_to_image import predictions, report
from tasks.image_to_image.metrics import WITHIN
from tasks.metric_sums import SAMPLES, MetricSums


class Transformation(Task):
    """Images made from images; the model sees pairs and is never told the transformation.

    Args:
        transforms: what torchvision makes the targets by, as `data/transforms/spec.py` reads it; or
        pairs: the targets themselves, uint8 (N, H, W, C), numbered by the labels of a batch.
        output_shape: (channels, height, width) of the targets; None: as `transforms` make them.
        of_every_task: see `Task`.

    Raises:
        ValueError: a transform or an augmentation does not fit the images.
    """

    of_classes = False
    report_files = ("examples.png", "curves.png", "loss.png", "accuracy.png")
    report_modules = ("tasks.image_to_image.pictures", "tasks.curves")

    def __init__(
        self,
        *,
        transforms: Sequence[tuple[str, float | None]] | None = None,
        pairs: Tensor | None = None,
        output_shape: tuple[int, int, int] | None = None,
        **of_every_task,
    ) -> None:
        super().__init__(**of_every_task)
        self.transforms, self.pairs = transforms, pairs
        if self.augment.mixes or "jitter" in self.augment.spec:
            raise ValueError("mixup, cutmix and jitter change what a target would have to be: leave them out")
        if transforms is None and self.augment.spec:
            raise ValueError("targets that are given do not follow an augmentation of their inputs: give none")
        if output_shape is None:
            example = torch.zeros(1, *self.input_shape, dtype=torch.uint8)
            output_shape = tuple(with_torchvision.apply(transforms, example).shape[1:])
        self._output_shape = tuple(output_shape)

    @classmethod
    def from_options(
        cls,
        options: Mapping,
        numbered: Tensor | None,
        output_shape: Sequence[int] | None,
        class_counts: Sequence[int] | None,
        **common,
    ) -> Self:
        """See `Task`."""
        if numbered is not None:
            height, width, channels = numbered.shape[1:]
            return cls(pairs=numbered, output_shape=(channels, height, width), **common)
        transforms = parse_transform(options["transform"]) if options["transform"] else None
        return cls(transforms=transforms, output_shape=output_shape, **common)

    def know(self, numbered: Tensor) -> None:
        """See `Task`."""
        self.pairs = numbered

    @staticmethod
    def learns_from_pairs(options: Mapping) -> bool:
        """Whether no transform is named that would make the targets."""
        return options["transform"] is None

    @property
    def model_kwargs(self) -> dict[str, tuple[int, ...]]:
        """What a model's constructor is told of its outputs."""
        return {"output_shape": self.output_shape}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the images that are made."""
        return self._output_shape

    def targets(self, batch: Batch) -> Tensor:
        """What the outputs for a batch are scored against: float32 (B, C, H, W) in 0..1."""
        if self.transforms is None:
            found = self.pairs[batch.labels.cpu()].to(self.device).permute(0, 3, 1, 2)
        else:
            found = with_torchvision.apply(self.transforms, batch.images.permute(0, 3, 1, 2))
        return found.float() / 255

    def training_batch(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented inputs, float32 (B, C, H, W), and the targets of these very images, float32 (B, C', H', W')."""
        images = self.augment(batch.images, batch.ids, batch.drawn_for(epoch), cropped=batch.cropped)
        return self.inputs(images), self.targets(Batch(images, batch.labels, batch.ids))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error.

        It pulls as hard at a small error as at a large one, so that pixels end near enough to count as right; the
        squared error loses interest long before, and pays for few large errors with blur everywhere.
        """
        return F.l1_loss(outputs.float(), targets)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Predicted pixels in 0..1, (B, C', H', W'), of uint8 (B, H, W, C)."""
        return model(self.inputs(images)).clamp(0, 1)

    def predict_files(
        self, args: PredictOptions, model: nn.Module, paths: list[Path], accelerator: Accelerator, batch_size: int
    ) -> int:
        """Write an image for each; see `predictions.predict_files`."""
        return predictions.predict_files(self.maker(model.eval()), self, args, paths, accelerator, batch_size)

    def maker(self, model: nn.Module) -> nn.Module:
        """What makes images with a trained model fastest: uint8 (B, H, W, C) -> uint8 (B, H', W', C')."""
        return model.for_pixels(self._scale, self._shift) if hasattr(model, "for_pixels") else Maker(self, model)

    def batch_metrics(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> MetricSums:
        """Sums over a batch of losses, images' shares of right pixels, and images."""
        count = self.count(len(targets))
        right = ((outputs.detach() - targets).abs() < WITHIN[0]).to(count.dtype).mean()
        return {"loss": loss.detach().to(count) * count, "accuracy": right * count, SAMPLES: count}

    def eval_metrics(self, outputs: Tensor, targets: Tensor) -> MetricSums:
        """The same sums for evaluation."""
        outputs = outputs.clamp(0, 1)
        return self.batch_metrics(self.loss(outputs, targets), outputs, targets)

    def selection_key(self, record: dict) -> tuple[float, ...]:
        """A small loss, which gets better to the end."""
        return (-finite(record["val_loss"]),)

    headline = staticmethod(report.headline)
    final_metrics = staticmethod(report.final_metrics)
    plot_history = staticmethod(report.plot_history)
    check_infer_options = staticmethod(predictions.check_options)
    test_report = report.test_report
    thumbnails = report.thumbnails


class Maker(nn.Module):
    """A model with its normalisation before it and the rounding of its outputs behind it.

    Shapes: uint8 (B, H, W, C) -> uint8 (B, H', W', C').
    """

    def __init__(self, task: Transformation, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, images: Tensor) -> Tensor:
        return (255 * self.task.predict(self.model, images).float()).round().byte().permute(0, 2, 3, 1)

"""What a task is: how a batch becomes inputs and targets, the loss, what counts as right, the report of a test."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from common.devices import widest_float
from data.augment.batch import Augment
from data.augment.spec import parse as parse_augment
from data.dataset import DataSplits
from data.geometry import MIDDLE, Geometry
from data.loader import Batch
from data.pixel_range import Ranges
from options.infer import PredictOptions
from tasks.metric_sums import SAMPLES, MetricSums, means

LATER = ("curves.png", "reliability.png")  # pictures that reports of earlier versions do not have


class Task(ABC):
    """Images that are augmented and become a model's inputs on their device, and all that a task has to say of them.

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
        geometry: by which photos of another shape became such images; see `data/geometry.py`.

    Attributes:
        image_shape: (height, width, channels) of the images; `input_shape`: (channels, height, width) of the inputs.

    Raises:
        ValueError: an augmentation does not fit the images.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")  # of each epoch; these two every task has
    eval_only: ClassVar[tuple[str, ...]] = ()  # more of each validation
    report_files: ClassVar[tuple[str, ...]]  # pictures of a whole report, as they are drawn
    report_modules: ClassVar[tuple[str, ...]] = ("tasks.curves",)  # what only a report needs, and is slow to import
    of_classes: ClassVar[bool] = True  # whether labels are classes, or sets of them
    several_labels: ClassVar[bool] = False  # whether an image has a set of them
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
        geometry: Geometry = MIDDLE,
    ) -> None:
        self.class_names = class_names
        self.image_shape, self.ranges, self.geometry = shape, ranges or {}, geometry
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
        if jitter is None:
            # By whole rows: broadcast over three channels it takes twice as long.
            width, rows = images.shape[2], images.flatten(2).float()
            torch.addcmul(self._shift.repeat(width), rows, self._scale.repeat(width), out=rows)
            normalised = rows.view(images.shape)
        else:
            shift, scale = (self._shift + jitter[0]) * jitter[1], self._scale * jitter[1]
            normalised = torch.addcmul(shift, images.float(), scale)
        return normalised.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)

    @classmethod
    def report_parts(cls) -> list[str]:
        """The files that a whole report has at least: without those that earlier versions did not draw."""
        return ["test.json", *(name for name in cls.report_files if name not in LATER)]

    @classmethod
    @abstractmethod
    def from_options(
        cls,
        options: Mapping,
        numbered: Tensor | None,
        output_shape: Sequence[int] | None,
        class_counts: Sequence[int] | None,
        **common,
    ) -> Self:
        """The task that a run's options ask for.

        Args:
            options: by name, without dashes; those that are younger than the run may be missing.
            numbered: what labels number where they are no classes, as `DataSplits.targets`; None: they are, or the
                data set is not there.
            output_shape: of the outputs where they are images, as weights say; None: to be derived.
            class_counts: training images of each class; None where nothing is to be trained.
            common: what `Task` takes.
        """

    @staticmethod
    def learns_from_pairs(options: Mapping) -> bool:
        """Whether the data set of these options is one of pairs of images, instead of labelled ones."""
        return False

    @property
    @abstractmethod
    def model_kwargs(self) -> dict:
        """What a model's constructor is told of its outputs."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a model's output for one image."""

    @abstractmethod
    def training_batch(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented inputs, float32 (B, C, H, W), and the targets that `loss` compares their outputs with."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss, a mean over the batch."""

    @abstractmethod
    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """The model's outputs for uint8 (B, H, W, C), as they are reported on."""

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor:
        """What the outputs for a batch are compared with in evaluation."""

    @abstractmethod
    def batch_metrics(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> MetricSums:
        """Sums of `metrics` over a batch, and "samples"; nothing in it may make the device wait.

        Args:
            loss: the batch's mean loss.
            outputs, targets: of the batch.
        """

    @abstractmethod
    def eval_metrics(self, outputs: Tensor, targets: Tensor) -> MetricSums:
        """The same sums in evaluation."""

    def zero_metrics(self) -> MetricSums:
        """The sums over no sample."""
        return {name: self.count(0) for name in (*self.metrics, SAMPLES)}

    def count(self, samples: int) -> Tensor:
        """A number of samples as metrics have it: 0-d, float64 where the device has that."""
        return torch.full((), samples, dtype=widest_float(self.device), device=self.device)

    def zero_eval_metrics(self) -> MetricSums:
        """What `eval_metrics` are added to."""
        return self.zero_metrics()

    def summarize(self, sums: dict[str, float | list[float]]) -> dict[str, float]:
        """The metrics of an evaluation, from their sums over all processes."""
        return means(sums)

    @abstractmethod
    def selection_key(self, record: dict) -> tuple[float, ...]:
        """What the best epoch is the maximum of, from its entry in train.json."""

    def learned(self, record: dict) -> dict:
        """What belongs to the weights of an epoch beside them, from its entry in train.json: plain values."""
        return {}

    def use(self, learned: Mapping) -> None:  # noqa: B027 - most tasks have nothing beside the weights
        """Go by what `learned` gave, where it is there: best.pth holds it."""

    def know(self, numbered: Tensor) -> None:
        """Learn what labels number, where the task was made without the data set."""
        raise TypeError(f"{type(self).__name__}: labels are classes")

    @abstractmethod
    def test_report(
        self, folder: Path, model: nn.Module, data: DataSplits, accelerator: Accelerator, batch_size: int
    ) -> tuple[dict, np.ndarray | None]:
        """Test the model; the main process writes test.json and the pictures of the test into `folder`.

        Returns:
            What test.json holds and, where there are classes, their probabilities, float32 (N, K).
        """

    @staticmethod
    @abstractmethod
    def headline(test: dict) -> str:
        """A test in one line, from what test.json holds."""

    @staticmethod
    @abstractmethod
    def final_metrics(test: dict) -> dict[str, float | None]:
        """What trackers show of a test."""

    @abstractmethod
    def thumbnails(
        self, folder: Path, data: DataSplits, test: dict, probabilities: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Small pictures for trackers, uint8 (H, W, 3); the arguments are those and the results of `test_report`."""

    @staticmethod
    @abstractmethod
    def plot_history(folder: Path, history: list[dict], name: str, test: dict) -> None:
        """Draw curves.png, loss.png and accuracy.png of a run, from what train.json and test.json hold."""

    @staticmethod
    @abstractmethod
    def check_infer_options(args: PredictOptions) -> None:
        """Raise UserError for options of infer.py that mean nothing for this task, or cannot be followed."""

    @abstractmethod
    def predict_files(
        self, args: PredictOptions, model: nn.Module, paths: list[Path], accelerator: Accelerator, batch_size: int
    ) -> int:
        """What infer.py does with image files. Returns its exit code: 1 when some could not be read."""

    def predict_unlabelled(
        self, folder: Path, model: nn.Module, data: DataSplits, accelerator: Accelerator, batch_size: int
    ) -> str | None:
        """Predict test images whose labels are kept secret; returns where the answers are, in words, or None."""
        return None


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

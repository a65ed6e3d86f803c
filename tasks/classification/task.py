"""One class for each image."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.spec import parse_sizes
from data.loader import Batch
from options.infer import PredictOptions
from options.values import by_epoch, parse_class_weights, parse_loss
from tasks.base import Task, finite, resize
from tasks.classification import calibration, losses, predictions, report
from tasks.metric_sums import SAMPLES, MetricSums, means


class Classification(Task):
    """One class for each image.

    Args:
        label_smoothing: share of the target spread over all classes, in training.
        train_sizes: side in pixels of the training images in each epoch; None: as they are.
        loss: a name of `options.values.LOSSES`, and gamma of the focal loss.
        class_weights: of each class in the training loss, float32 (K,); None: all are 1.
        monitor: the validation metric that the best epoch is chosen by.
        tta: views that predictions are averaged over: "none", "flip" (mirrored too) or "shift" (shifted too).
        of_every_task: see `Task`.
    """

    metrics = ("loss", "accuracy")
    eval_only = ("macro_f1", "balanced_accuracy")
    main_metric = "accuracy"  # what is monitored where nobody says what
    report_files = (
        *("confusion_matrix.png", "reliability.png", "examples.png"),
        *("curves.png", "loss.png", "accuracy.png"),
    )
    report_modules = tuple(f"tasks.{name}" for name in ("classification.metrics", "classification.plots", "curves"))

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        loss: tuple[str, float] = ("ce", 0.0),
        class_weights: Tensor | None = None,
        monitor: str = "accuracy",
        train_sizes: list[int] | None = None,
        tta: str = "none",
        **of_every_task,
    ) -> None:
        super().__init__(**of_every_task)
        self.label_smoothing, self.train_sizes, self.tta = label_smoothing, train_sizes, tta
        self.per_sample = losses.BY_NAME[loss[0]](loss[1])
        self.class_weights = None if class_weights is None else class_weights.to(self.device)
        self.monitor = monitor
        self.temperature = 1.0

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
        weights = options.get("class_weights")
        if weights is not None and class_counts is not None:
            weights = losses.weights_of_classes(parse_class_weights(weights), class_counts, common["class_names"])
        return cls(
            class_weights=None if class_counts is None else weights,
            **cls.learning(options),
            **common,
        )

    @classmethod
    def learning(cls, options: Mapping) -> dict:
        """What classes are learned by, be there one an image or several: arguments, from a run's options."""
        sizes = options.get("train_sizes")
        return {
            "label_smoothing": options.get("label_smoothing", 0.0),
            "train_sizes": by_epoch(parse_sizes(sizes), options["epochs"]) if sizes else None,
            "loss": parse_loss(options.get("loss", "ce")),
            "monitor": options.get("monitor") or cls.main_metric,
            "tta": options.get("tta", "none"),
        }

    @property
    def model_kwargs(self) -> dict[str, int]:
        """What a model's constructor is told of its outputs."""
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
        drawn_for = batch.drawn_for(epoch)
        images = self.augment(batch.images, batch.ids, drawn_for, cropped=batch.cropped)
        size = self.input_shape[1:] if self.train_sizes is None else (self.train_sizes[epoch],) * 2
        images = resize(images, size, self.interpolation)
        inputs = self.normalise(images, self.augment.jitter(batch.ids, drawn_for))
        labels = self.targets(batch)
        if not self.augment.mixes:
            return inputs, labels
        of_each = F.one_hot(labels, len(self.class_names)).float() if labels.ndim == 1 else labels
        (images, partners), (targets, others) = inputs.chunk(2), of_each.chunk(2)
        own = slice(len(images))
        return self.augment.mix(images, partners, targets, others, batch.ids[own], batch.drawn_for(epoch, own))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss; weighted, it is divided by the number of images all the same, not by their weights,
        so that it is the same on any number of processes."""
        if self.per_sample is losses.cross_entropy and self.class_weights is None:
            return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)  # in one kernel
        of_each = self.per_sample(logits.float(), targets, self.label_smoothing)
        if self.class_weights is not None:
            of_each = of_each * losses.weights_of_samples(self.class_weights, targets)
        return of_each.mean()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class, float32 (B, K)."""
        return (logits.float() / self.temperature).softmax(1)

    def use(self, learned: Mapping) -> None:
        """Divide logits by the temperature that --calibrate found, where it did."""
        self.temperature = learned.get("temperature", 1.0)

    def calibrated(self, logits: Tensor, labels: Tensor) -> dict:
        """What makes confidence honest, from the logits (N, K) of images that were not trained on; for `use`."""
        return {"temperature": calibration.fit_temperature(logits, labels)}

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, K) of uint8 (B, H, W, C), averaged over the views of `tta`."""
        return self.over_views(model, self.inputs(images))

    def over_views(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits (B, K) of normalised inputs (B, C, H, W), averaged over the views of `tta`."""
        if self.tta == "none":
            return model(inputs)
        if self.tta == "flip":
            return _both_sides(model, inputs)
        # Half of the weight for the image, half for it shifted by a pixel along the diagonal (as in airbench94).
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        shifted = [padded[..., i : i + height, i : i + width] for i in (0, 2)]
        return _both_sides(model, inputs) / 2 + sum(_both_sides(model, view) for view in shifted) / 4

    def batch_metrics(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> MetricSums:
        """Sums over a batch of losses, right answers and samples.

        Args:
            loss: the batch's mean loss.
            outputs: logits (B, K).
            targets: int64 (B,), or float (B, K), whose largest counts as right.
        """
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        count = self.count(len(labels))
        correct = (outputs.argmax(1) == labels).sum()
        return {
            "loss": loss.detach().to(count) * count,
            "accuracy": correct.to(count),
            SAMPLES: count,
        }

    def eval_metrics(self, outputs: Tensor, targets: Tensor) -> MetricSums:
        """The same sums for evaluation, by plain cross-entropy whatever the training loss is, and counts by class."""
        classes = len(self.class_names)
        true, said = F.one_hot(targets, classes), F.one_hot(outputs.argmax(1), classes)
        counts = {"true": true.sum(0), "said": said.sum(0), "right": (true * said).sum(0)}
        sums = self.batch_metrics(F.cross_entropy(outputs.float(), targets), outputs, targets)
        return sums | {name: count.to(sums[SAMPLES]) for name, count in counts.items()}

    def zero_eval_metrics(self) -> MetricSums:
        """See `Task`."""
        zero = self.zero_metrics()
        return zero | {name: zero[SAMPLES].repeat(len(self.class_names)) for name in ("true", "said", "right")}

    def summarize(self, sums: dict[str, float | list[float]]) -> dict[str, float]:
        """See `Task`; averages are over the classes that have samples."""
        true, said, right = (torch.tensor(sums[name], dtype=torch.float64) for name in ("true", "said", "right"))
        there = true > 0
        f1, recall = 2 * right / (true + said), right / true
        return means(sums) | {"macro_f1": f1[there].mean().item(), "balanced_accuracy": recall[there].mean().item()}

    def selection_key(self, record: dict) -> tuple[float, ...]:
        """The metric to monitor, then a small loss."""
        loss = -finite(record["val_loss"])
        if self.monitor == "loss":
            return loss, record[f"val_{self.main_metric}"]
        return record[f"val_{self.monitor}"], loss

    def put_out(
        self, names: list[str], probabilities: np.ndarray, args: PredictOptions, labels: np.ndarray | None = None
    ) -> None:
        """Print or write the likeliest classes of each image; `labels` are the true ones, int64 (N,)."""
        true = None if labels is None else [self.class_names[label] for label in labels]
        found = predictions.rows(names, probabilities, self.class_names, args.topk, true, args.reject)
        predictions.put_out(found, args.output)

    def as_csv(self, names: list[str], probabilities: np.ndarray) -> str:
        """The likeliest classes of each image, as CSV."""
        return predictions.as_csv(predictions.rows(names, probabilities, self.class_names, predictions.TOPK))

    def one_label(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """The class of each image that an explanation is about, int64 (N,); -1 where there is none."""
        return labels

    headline = staticmethod(report.headline)
    reject_in_words = staticmethod(predictions.reject_in_words)
    final_metrics = staticmethod(report.final_metrics)
    plot_history = staticmethod(report.plot_history)
    check_infer_options = staticmethod(predictions.check_options)
    test_report = report.test_report
    thumbnails = report.thumbnails
    predict_files = predictions.predict_files
    predict_unlabelled = predictions.predict_unlabelled


def _both_sides(model: nn.Module, inputs: Tensor) -> Tensor:
    return (model(inputs) + model(inputs.flip(-1))) / 2

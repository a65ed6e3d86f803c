"""Several labels an image: each is there or not, by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from common.errors import UserError
from data.dataset import DataSplits
from data.loader import Batch
from options.infer import PredictOptions
from tasks.classification.task import Classification
from tasks.metric_sums import SAMPLES, MetricSums, means
from tasks.multilabel import histograms, losses, predictions, report


class MultiLabel(Classification):
    """Several labels an image: each class is there or not, by itself.

    Args:
        label_sets: uint8 (S, K), the classes of each label of a batch; None: to be told by `know`, or of no need.
        loss: a name of `losses.BY_NAME`, and gamma of the asymmetric loss.
        of_classification: see `Classification`.

    Attributes:
        thresholds: probabilities (K,) from which a class is said to be there; tuned on validation.
    """

    eval_only = ("map", "macro_f1", "thresholds")
    main_metric = "map"
    several_labels = True
    report_files = ("average_precision.png", "examples.png", "curves.png", "loss.png", "accuracy.png")
    report_modules = ("tasks.multilabel.metrics", "tasks.multilabel.pictures", "tasks.curves")

    def __init__(
        self, *, label_sets: Tensor | None = None, loss: tuple[str, float] = ("ce", 0.0), **of_classification
    ) -> None:
        super().__init__(**of_classification)
        self.per_class = losses.BY_NAME[loss[0]](loss[1])
        self.thresholds = [0.5] * len(self.class_names)
        self.label_sets = None if label_sets is None else label_sets.to(self.device)

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
        return cls(label_sets=numbered, **cls.learning(options), **common)

    def know(self, numbered: Tensor) -> None:
        """See `Task`."""
        self.label_sets = numbered.to(self.device)

    def learned(self, record: dict) -> dict:
        """See `Task`."""
        return {"thresholds": record.get("val_thresholds") or [0.5] * len(self.class_names)}

    def use(self, learned: Mapping) -> None:
        """See `Task`."""
        self.thresholds = list(learned.get("thresholds") or self.thresholds)

    def targets(self, batch: Batch) -> Tensor:
        """What the outputs for a batch are scored against: whether each class is there, float32 (B, K) of 0 and 1."""
        return self.label_sets[batch.labels].float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss, over classes and images."""
        smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return self.per_class(logits.float(), smooth).mean()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class, float32 (B, K)."""
        return logits.float().sigmoid()

    def batch_metrics(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> MetricSums:
        """Sums over a batch of losses, of the share of classes that are told rightly, and samples; as in `Task`."""
        count = self.count(len(targets))
        right = ((outputs > 0) == (targets > 0.5)).to(count.dtype).mean(1).sum()
        return {"loss": loss.detach().to(count) * count, "accuracy": right, SAMPLES: count}

    def eval_metrics(self, outputs: Tensor, targets: Tensor) -> MetricSums:
        """The same sums for evaluation, by plain binary cross-entropy, and how logits are distributed."""
        loss = losses.binary_cross_entropy(outputs.float(), targets).mean()
        counted = histograms.count(outputs, targets)
        sums = self.batch_metrics(loss, outputs, targets)
        return sums | {name: value.to(sums[SAMPLES]) for name, value in counted.items()}

    def zero_eval_metrics(self) -> MetricSums:
        """See `Task`."""
        zero = self.zero_metrics()
        bins = len(self.class_names) * histograms.BINS
        return zero | {name: zero[SAMPLES].repeat(bins) for name in ("there", "absent")}

    def summarize(self, sums: dict[str, float | list[float]]) -> dict:
        """The means; average precision and F1, over the classes that some image has; the thresholds of the best F1."""
        there, absent = (np.asarray(sums[name]).reshape(-1, histograms.BINS) for name in ("there", "absent"))
        thresholds, f1 = histograms.best_thresholds(there, absent)
        some = there.sum(1) > 0
        return means(sums) | {
            "map": float(histograms.average_precisions(there, absent)[some].mean()) if some.any() else 0.0,
            "macro_f1": float(f1[some].mean()) if some.any() else 0.0,
            "thresholds": thresholds.tolist(),
        }

    def put_out(
        self, names: list[str], probabilities: np.ndarray, args: PredictOptions, labels: np.ndarray | None = None
    ) -> None:
        """Print or write which classes are there in each image; `labels` are the numbers of their true sets."""
        truth = None if labels is None else self.label_sets.cpu().numpy()[labels]
        found = predictions.rows(names, probabilities, self.class_names, self.thresholds, truth)
        predictions.put_out(found, args.output)

    def as_csv(self, names: list[str], probabilities: np.ndarray) -> str:
        """Which classes are there in each image, and all probabilities, as CSV."""
        return predictions.as_csv(predictions.rows(names, probabilities, self.class_names, self.thresholds))

    def one_label(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """The class of each image that an explanation is about, int64 (N,): of the true ones the likeliest, else -1."""
        truth = self.label_sets.cpu().numpy()[labels]
        likeliest = np.where(truth > 0, probabilities, -1.0).argmax(1)
        return np.where(truth.any(1), likeliest, -1)

    def test_report(
        self, folder: Path, model: nn.Module, data: DataSplits, accelerator: Accelerator, batch_size: int
    ) -> tuple[dict, np.ndarray]:
        """See `Task`."""
        return report.test_report(self, folder, model, data, accelerator, batch_size)

    def thumbnails(
        self, folder: Path, data: DataSplits, test: dict, probabilities: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `Task`."""
        return report.thumbnails(self, data, test, probabilities)

    headline = staticmethod(report.headline)
    final_metrics = staticmethod(report.final_metrics)

    @staticmethod
    def check_infer_options(args: PredictOptions) -> None:
        """See `Task`."""
        if args.topk != PredictOptions.topk:
            raise UserError("--topk: of several labels all that are likely enough are named; leave it out")
        if args.reject is not None:
            raise UserError("--reject: of several labels each has a threshold of its own; leave it out")
        Classification.check_infer_options(args)

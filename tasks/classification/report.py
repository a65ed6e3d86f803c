"""The end of a classifier's run: the test set, looked at once, in metrics and pictures."""

import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from common import console
from common.console import percent
from common.files import write_json, write_text
from data.dataset import DataSplits
from tasks.base import Task
from tasks.classification import calibration, predictions
from tasks.evaluate import predict

MOST_MISTAKES, RIGHT = 20, 5  # of examples.png


def test_report(
    task: Task,
    folder: Path,
    model: nn.Module,
    data: DataSplits,
    accelerator: Accelerator,
    batch_size: int,
) -> tuple[dict, np.ndarray]:
    """Test the model; the main process writes test.json, test.csv and pictures into `folder`.

    Returns:
        What test.json holds, and the probabilities, float32 (N, K), in the order of the test part.
    """
    from tasks.classification import confusion, reliability  # matplotlib takes a second to import

    start = time.perf_counter()
    logits, labels = predict(model, task, data.test, accelerator, batch_size)
    seconds = time.perf_counter() - start
    probabilities = task.probabilities(logits).numpy()
    metrics = test_metrics(task.class_names, probabilities, labels)
    metrics |= _confidence(task, logits, probabilities, labels.numpy())
    report = {**metrics, "seconds": seconds, "images_per_second": len(labels) / seconds, "data": data.notes}
    if not accelerator.is_main_process:
        return report, probabilities
    write_json(folder / "test.json", report)
    answers = predictions.answers(data.class_names, data.test.names(), probabilities, labels.numpy())
    write_text(folder / "test.csv", answers)
    console.status("drawing pictures")
    title = f"{data.name}, test set: {percent(metrics['accuracy'])} of {metrics['samples']:,} right"
    confusion.plot_confusion(
        np.asarray(metrics["confusion_matrix"]), data.class_names, folder / "confusion_matrix.png", title
    )
    if metrics["calibration"] is not None:
        before = metrics.get("uncalibrated", {}).get("calibration")
        title = f"{data.name}, test set: confidence and accuracy"
        reliability.plot_reliability(metrics["calibration"], before, folder / "reliability.png", title)
    _plot_examples(folder / "examples.png", data, labels.numpy(), probabilities)
    return report, probabilities


def test_metrics(class_names: list[str], probabilities: np.ndarray, labels: Tensor) -> dict:
    """The metrics of the test report, from probabilities, float32 (N, K), and labels, int64 (N,)."""
    from tasks.classification import metrics  # scikit-learn and evaluate take seconds to import

    return metrics.classification_metrics(labels.numpy(), probabilities, class_names)


def _confidence(task: Task, logits: Tensor, probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """How far confidence can be trusted; of calibrated weights also what it was, and the loss, before."""
    if not np.isfinite(probabilities).all():
        return {"calibration": None}
    found = {"calibration": calibration.reliability(probabilities, labels)}
    if task.temperature == 1:
        return found
    raw = logits.float()
    before = calibration.reliability(raw.softmax(1).numpy(), labels)
    loss = F.cross_entropy(raw, torch.from_numpy(labels)).item()
    return {**found, "temperature": task.temperature, "uncalibrated": {"loss": loss, "calibration": before}}


def _plot_examples(path: Path, data: DataSplits, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """The mistakes made with the most confidence, and some right answers from all over the test set."""
    from tasks.classification import plots

    predictions = probabilities.argmax(1)
    confidences = probabilities.max(1)
    wrong, right = np.flatnonzero(predictions != labels), np.flatnonzero(predictions == labels)
    worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:MOST_MISTAKES]
    some_right = right[:: max(1, len(right) // RIGHT)][:RIGHT]
    shown = np.concatenate([worst, some_right])
    names = data.test.names()
    answers = f"{_how_many(len(worst), len(wrong))}, {len(some_right)} of {len(right):,} right answers"
    plots.plot_examples(
        data.test.arrays.images[data.test.ids[shown]],
        labels[shown],
        predictions[shown],
        confidences[shown],
        data.class_names,
        path,
        f"{data.name}, test set: {answers}",
        [_short_name(names[index]) for index in shown],
    )


def _short_name(name: str) -> str:
    """A file by its folder and its own name."""
    return "/".join(Path(name).parts[-2:])


def _how_many(shown: int, mistakes: int) -> str:
    """Which of the mistakes are shown."""
    if shown < mistakes:
        return f"the {shown} most confident of {mistakes:,} mistakes"
    return ["no mistake", "the only mistake"][mistakes] if mistakes < 2 else f"all {mistakes} mistakes"


def plot_history(folder: Path, history: list[dict], name: str, test: dict) -> None:
    """Draw curves.png, loss.png and accuracy.png of a run with its test, from what train.json and test.json hold."""
    from tasks import curves

    console.status("drawing curves")
    curves.plot_curves(history, folder / "curves.png", name, test, {"loss": "loss", "accuracy": "accuracy (%)"})
    for key in ("loss", "accuracy"):
        curves.plot_curve(history, key, folder / f"{key}.png", f"{name}: {key}", test[key])


def final_metrics(test: dict) -> dict[str, float | None]:
    """What trackers show of the test."""
    recall = test["recall"]["macro"]
    return {
        "accuracy": test["accuracy"],
        "balanced_accuracy": recall,
        "loss": test["loss"],
        "macro_f1": test["f1"]["macro"],
    }


def thumbnails(
    task: Task, folder: Path, data: DataSplits, test: dict, probabilities: np.ndarray
) -> dict[str, np.ndarray]:
    """Small pictures, uint8 (H, W, 3), that can be read where trackers show them: with less in them.

    Args:
        folder: of the report.
        test, probabilities: as `test_report` returned them.
    """
    from common import plot_style
    from tasks.classification import confusion, plots

    labels = data.test.arrays.labels[data.test.ids]
    predictions = probabilities.argmax(1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:6]
    examples = plots.examples_figure(
        data.test.arrays.images[data.test.ids[worst]],
        labels[worst],
        predictions[worst],
        probabilities[worst].max(1),
        data.class_names,
        f"{len(worst)} of {len(wrong):,} mistakes",
        columns=3,
    )
    matrix = confusion.thumbnail_figure(test["confusion_matrix"], data.class_names)
    return {"confusion_matrix": plot_style.pixels(matrix), "examples": plot_style.pixels(examples)}


def headline(test: dict) -> str:
    """The test in one line."""
    loss = "not finite" if test["loss"] is None else f"{test['loss']:.4f}"
    classes, absent = len(test["per_class"]), len(test.get("classes_without_samples", []))
    top5 = test["top5_accuracy"] if classes > 10 else None
    top5 = "" if top5 is None else f", top-5 {percent(top5)}"
    supports = [row["support"] for row in test["per_class"].values() if row["support"]]
    uneven = max(supports) >= 2 * min(supports)
    balanced = f", balanced {percent(test['recall']['macro'])}" if uneven else ""
    over = f" over the {classes - absent} of {classes} classes that have test images" if absent else ""
    return (
        f"test accuracy {percent(test['accuracy'])}{balanced}{top5} on {test['samples']:,} images, "
        f"loss {loss}, macro F1 {test['f1']['macro']:.4f}{over}{_calibrated(test)}"
    )


def _calibrated(test: dict) -> str:
    before = test.get("uncalibrated")
    if before is None:
        return ""
    errors = percent(test["calibration"]["error"]), percent(before["calibration"]["error"])
    return f", calibration error {errors[0]} ({errors[1]} before, temperature {test['temperature']:.3g})"

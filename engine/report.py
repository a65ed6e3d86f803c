"""The end of a classifier's run: the test set, looked at once, in figures and pictures."""

import time
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import nn

from data.dataset import ImageData
from engine import console, plots
from engine.evaluate import predict
from engine.files import write_json
from engine.tasks import Classification

PICTURES = ("loss.png", "accuracy.png", "confusion_matrix.png", "examples.png")
MOST_EXAMPLES = 25


def test_report(
    folder: Path,
    model: nn.Module,
    task: Classification,
    data: ImageData,
    accelerator: Accelerator,
    batch_size: int,
) -> tuple[dict, np.ndarray]:
    """Test the model; the main process writes test.json, confusion_matrix.png and examples.png into `folder`.

    Returns:
        What test.json holds, and the probabilities, float32 (N, K), in the order of the test part.
    """
    start = time.perf_counter()
    logits, labels = predict(model, task, data.test, accelerator, batch_size)
    seconds = time.perf_counter() - start
    metrics, probabilities = task.test_metrics(logits, labels)
    report = {**metrics, "seconds": seconds, "images_per_second": len(labels) / seconds, "data": data.notes}
    if not accelerator.is_main_process:
        return report, probabilities
    write_json(folder / "test.json", report)
    console.status("drawing pictures")
    title = f"{data.name}, test set: {console.percent(metrics['accuracy'])} of {metrics['samples']:,} right"
    plots.plot_confusion(
        np.asarray(metrics["confusion_matrix"]), data.class_names, folder / "confusion_matrix.png", title
    )
    _plot_worst(folder / "examples.png", data, labels.numpy(), probabilities)
    return report, probabilities


def _plot_worst(path: Path, data: ImageData, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """The mistakes made with the most confidence."""
    predictions = probabilities.argmax(1)
    confidences = probabilities.max(1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:MOST_EXAMPLES]
    title = f"{data.name}: the {len(worst)} most confident of {len(wrong):,} mistakes on the test set"
    plots.plot_examples(
        data.test.arrays.images[data.test.ids[worst]],
        labels[worst],
        predictions[worst],
        confidences[worst],
        data.class_names,
        path,
        title,
    )


def plot_history(folder: Path, history: list[dict], name: str) -> None:
    """Draw loss.png and accuracy.png of a run."""
    console.status("drawing curves")
    for key in ("loss", "accuracy"):
        plots.plot_curve(history, key, folder / f"{key}.png", f"{name}: {key}")


def end_figures(test: dict) -> dict[str, float | None]:
    """What trackers show of the test beside accuracy and loss."""
    return {"end/test_macro_f1": test["f1"]["macro"]}


def headline(test: dict) -> str:
    """The test in one line."""
    loss = "not finite" if test["loss"] is None else f"{test['loss']:.4f}"
    classes, absent = len(test["per_class"]), len(test.get("classes_without_samples", []))
    top5 = test["top5_accuracy"] if classes > 10 else None
    top5 = "" if top5 is None else f", top-5 {console.percent(top5)}"
    over = f" over the {classes - absent} of {classes} classes that have test images" if absent else ""
    return (
        f"test accuracy {console.percent(test['accuracy'])}{top5} on {test['samples']:,} images, loss {loss}, "
        f"macro F1 {test['f1']['macro']:.4f}{over}"
    )

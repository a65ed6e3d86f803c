"""The end of a run with several labels an image: the test set, looked at once, in metrics and pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import Accelerator
from torch import nn

from common import console
from common.files import write_json, write_text
from data.dataset import DataSplits
from tasks.evaluate import predict
from tasks.multilabel import predictions

if TYPE_CHECKING:
    from tasks.multilabel.task import MultiLabel

MOST_MISTAKES, RIGHT = 20, 5  # of examples.png


def test_report(
    task: "MultiLabel", folder: Path, model: nn.Module, data: DataSplits, accelerator: Accelerator, batch_size: int
) -> tuple[dict, np.ndarray]:
    """Test the model; the main process writes test.json, average_precision.png and examples.png into `folder`.

    Returns:
        What test.json holds, and the probabilities, float32 (N, K), in the order of the test part.
    """
    from common import plot_style  # matplotlib takes a second to import, scikit-learn two
    from tasks.classification import plots
    from tasks.multilabel import pictures
    from tasks.multilabel.metrics import multilabel_metrics

    start = time.perf_counter()
    logits, labels = predict(model, task, data.test, accelerator, batch_size)
    seconds = time.perf_counter() - start
    probabilities, truth = task.probabilities(logits).numpy(), data.targets[labels.numpy()]
    metrics = multilabel_metrics(truth, probabilities, task.class_names, task.thresholds)
    report = {**metrics, "seconds": seconds, "images_per_second": len(labels) / seconds, "data": data.notes}
    if accelerator.is_main_process:
        write_json(folder / "test.json", report)
        write_text(folder / "test.csv", predictions.answers(task, data.test.names(), probabilities, truth))
        console.status("drawing pictures")
        plot_style.save(pictures.precision_figure(metrics, data.name), folder / "average_precision.png")
        *shown, title, names = _examples(task, data, truth, probabilities, MOST_MISTAKES, RIGHT)
        plots.plot_examples(*shown, folder / "examples.png", title, names)
    return report, probabilities


def _examples(
    task: "MultiLabel", data: DataSplits, truth: np.ndarray, probabilities: np.ndarray, most: int, right_ones: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str], str, list[str]]:
    """Images with the most wrong answers, and some that are right, as `plot_examples` takes them."""
    said = probabilities >= np.asarray(task.thresholds, dtype=np.float32)
    wrong_answers = (said != truth).sum(1)
    wrong, right = np.flatnonzero(wrong_answers), np.flatnonzero(wrong_answers == 0)
    worst = wrong[np.argsort(-wrong_answers[wrong], kind="stable")][:most]
    some_right = right[:: max(1, len(right) // max(right_ones, 1))][:right_ones]
    shown = np.concatenate([worst, some_right])
    # The set of labels of an image stands for its class: what is drawn is their names.
    true = [_in_words(row, task.class_names) for row in truth[shown]]
    answers = [_in_words(row, task.class_names) for row in said[shown]]
    texts = sorted({*true, *answers})
    surest = np.where(said[shown], probabilities[shown], 1 - probabilities[shown]).min(1)
    names = data.test.names()
    title = (
        f"{data.name}, test set: the {len(worst)} of {len(wrong):,} images with most wrong answers, {len(some_right)} "
        f"of {len(right):,} all right; in brackets the probability of the least sure answer"
    )
    return (
        data.test.arrays.images[data.test.ids[shown]],
        np.array([texts.index(text) for text in true], dtype=np.int64),
        np.array([texts.index(text) for text in answers], dtype=np.int64),
        surest,
        texts,
        title,
        ["/".join(Path(names[index]).parts[-2:]) for index in shown],
    )


def _in_words(there: np.ndarray, class_names: list[str]) -> str:
    return ", ".join(predictions.names_of(there, class_names)) or "none"


def thumbnails(task: "MultiLabel", data: DataSplits, test: dict, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Small pictures, uint8 (H, W, 3), for trackers."""
    from common import plot_style
    from tasks.classification import plots
    from tasks.multilabel import pictures

    truth = data.targets[data.test.arrays.labels[data.test.ids]]
    *shown, _, _ = _examples(task, data, truth, probabilities, 6, 0)
    examples = plots.examples_figure(*shown, f"{data.name}: most wrong answers", None, 3)
    precision = pictures.precision_figure(test, data.name)
    return {"average_precision": plot_style.pixels(precision), "examples": plot_style.pixels(examples)}


def final_metrics(test: dict) -> dict[str, float | None]:
    """What trackers show of the test."""
    return {name: test[name] for name in ("accuracy", "loss", "map")} | {"macro_f1": test["f1"]["macro"]}


def headline(test: dict) -> str:
    """The test in one line."""
    loss = "not finite" if test["loss"] is None else f"{test['loss']:.4f}"
    precision = "not finite" if test["map"] is None else console.percent(test["map"])
    classes, absent = len(test["per_class"]), len(test["classes_without_samples"])
    over = f" over the {classes - absent} of {classes} classes that have test images" if absent else ""
    return (
        f"test mAP {precision}, macro F1 {test['f1']['macro']:.4f}{over}, micro F1 {test['f1']['micro']:.4f} on "
        f"{test['samples']:,} images; {console.percent(test['exact_match'])} with every label right, loss {loss}"
    )

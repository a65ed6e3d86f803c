"""Rare classes: weights, losses and balanced sampling are the papers', and the best epoch is the one asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn import functional as F

import train as train_script
from data.dataset import load_images
from data.loader import balanced_order
from options.values import parse_class_weights
from tasks.classification import losses
from tasks.classification.task import Classification
from tests.conftest import fresh_process
from tests.driver import Fault, train

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, LABELS = torch.randn(50, 7, generator=GENERATOR), torch.randint(0, 7, (50,), generator=GENERATOR)
SOFT = torch.rand(50, 7, generator=GENERATOR).softmax(1)
NAMES = [*"abcdefg"]


def task(**options: object) -> Classification:
    common = {"shape": (8, 8, 1), "class_names": NAMES, "mean": [0.5], "std": [0.5], "device": torch.device("cpu")}
    return Classification(**options, **common)


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "mixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_timms_and_a_focus_of_0_is_cross_entropy(targets: Tensor, smoothing: float) -> None:
    bce = task(loss=("bce", 0), label_smoothing=smoothing).loss(LOGITS, targets)
    shares = F.one_hot(targets, 7).float() if targets.ndim == 1 else targets
    soft = shares * (1 - smoothing) + smoothing / 7
    torch.testing.assert_close(bce, BinaryCrossEntropy(smoothing=0)(LOGITS, soft))
    if targets.ndim == 1:
        torch.testing.assert_close(bce, BinaryCrossEntropy(smoothing=smoothing)(LOGITS, targets))
    unfocused = task(loss=("focal", 0.0), label_smoothing=smoothing).loss(LOGITS, targets)
    torch.testing.assert_close(unfocused, F.cross_entropy(LOGITS, targets, label_smoothing=smoothing))


def test_the_focal_loss_is_its_papers_formula() -> None:
    p = LOGITS.double().softmax(1)[torch.arange(50), LABELS]
    expected = (-((1 - p) ** 1.5) * p.log()).mean()
    assert task(loss=("focal", 1.5)).loss(LOGITS, LABELS).item() == pytest.approx(expected.item(), rel=1e-5)


def test_weighted_cross_entropy_is_pytorchs_over_the_number_of_images() -> None:
    weights = torch.rand(7, generator=GENERATOR)
    weighted = task(class_weights=weights).loss(LOGITS, LABELS)
    torch.testing.assert_close(weighted, F.cross_entropy(LOGITS, LABELS, weights, reduction="sum") / 50)
    mixed = task(class_weights=weights).loss(LOGITS, F.one_hot(LABELS, 7).float())
    torch.testing.assert_close(mixed, weighted)


def test_weights_of_classes_are_scikit_learns_and_the_papers() -> None:
    labels = np.repeat(np.arange(4), [100, 10, 1, 30])
    auto = losses.weights_of_classes("auto", [100, 10, 1, 30, 0], [*"abcde"])
    assert auto[:4].tolist() == pytest.approx(compute_class_weight("balanced", classes=np.arange(4), y=labels).tolist())
    assert auto[4] == 0
    beta = losses.weights_of_classes(0.99, [100, 10, 1, 30], [*"abcd"]).double()
    assert (beta[labels].mean()).item() == pytest.approx(1)
    effective = [(1 - 0.99**n) / (1 - 0.99) for n in (100, 10, 1, 30)]
    assert (beta / beta[2]).tolist() == pytest.approx([1 / n for n in effective])
    assert losses.weights_of_classes(parse_class_weights("b=3,d=0"), [1] * 4, [*"abcd"]).tolist() == [1, 3, 1, 0]


def test_an_unknown_class_is_refused_with_the_classes_that_there_are(tmp_path: Path, capsys) -> None:
    fresh_process()
    options = ["--cpu", "--model", "mlp", "--class-weights", "10=2", "--output-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as ended:
        train_script.main(options)
    assert ended.value.code == 2 and not (tmp_path / "runs").exists()
    error = capsys.readouterr().err
    assert error == "error: --class-weights: there is no class 10; the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"


@pytest.mark.parametrize(("power", "shares"), [(0.0, [250, 250, 250, 250]), (0.5, [537, 240, 170, 53])])
def test_balanced_sampling_shows_classes_by_their_share_and_images_of_one_equally_often(
    power: float, shares: list[int]
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [745, 149, 98, 8]))
    roots = np.array([745, 149, 98, 8]) ** power
    assert np.abs(np.array(shares) - 1000 * roots / roots.sum()).max() <= 30
    ids = np.arange(5000, 6000)
    order = balanced_order(ids, labels, power, seed=1, epoch=3)
    assert len(order) == 1000 and np.isin(order, ids).all()
    assert np.abs(np.bincount(labels[order - 5000]) - 1000 * roots / roots.sum()).max() < 1
    for label in range(4):
        times = np.bincount(order - 5000, minlength=1000)[labels == label]
        assert times.max() - times.min() <= 1
    assert np.array_equal(order, balanced_order(ids, labels, power, 1, 3))
    assert not np.array_equal(order, balanced_order(ids, labels, power, 1, 4))
    assert not np.array_equal(order, balanced_order(ids, labels, power, 2, 3))
    assert np.array_equal(np.sort(balanced_order(ids, labels, 1.0, 1, 3)), ids)


IMBALANCED = (
    "--cpu --track none --model mlp --model-arg hidden=8 --mixed-precision no --long-tail 20 --batch-size 32 "
    "--balance sqrt --class-weights auto --loss focal=1 --monitor macro_f1 --epochs 3 --run-name run --output-dir"
).split()


def seen(folder: Path, processes: int) -> list[list[str]]:
    """The samples of each step, of all processes."""
    ledgers = [(folder / f"ledger.{rank}").read_text().splitlines() for rank in range(processes)]
    return [sorted(word for line in step for word in line.split()[1:]) for step in zip(*ledgers, strict=True)]


def test_all_of_it_is_the_same_on_two_processes_and_after_a_kill(tmp_path: Path) -> None:
    def run(name: str, processes: int, *more: str, **fault: object) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        argv = [*IMBALANCED, str(tmp_path / name), *more]
        codes, printed = train(argv, processes, Fault(ledger=tmp_path / name / "ledger", **fault))
        assert codes == ([-9] if fault else [0] * processes), printed
        return printed

    run("whole", 1)
    run("two", 2)
    assert seen(tmp_path / "whole", 1) == seen(tmp_path / "two", 2)
    run("killed", 1, "--checkpoint-every", "1", kill_after=20)
    assert "at step 20 of" in run("killed", 1, "--checkpoint-every", "1", "--resume", "auto")
    before, after, two = (
        torch.load(tmp_path / name / "run" / "best.pth", weights_only=True)["weights"]
        for name in ("whole", "killed", "two")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in before:
        torch.testing.assert_close(before[name], two[name], rtol=0, atol=1e-6)


def test_averages_over_classes_are_scikit_learns_over_those_that_have_samples() -> None:
    own = task()
    labels = LABELS[LABELS != 4]
    outputs = LOGITS[LABELS != 4]
    sums = own.zero_eval_metrics()
    for part in (slice(0, 20), slice(20, None)):
        more = own.eval_metrics(outputs[part], labels[part])
        sums = {name: value + more[name] for name, value in sums.items()}
    found = own.summarize({name: value.tolist() for name, value in sums.items()})
    said = outputs.argmax(1)
    assert found["accuracy"] == pytest.approx((said == labels).double().mean().item())
    there = sorted(set(labels.tolist()))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, said, labels=there, average="macro"))
    with pytest.warns(UserWarning):  # of the class without samples
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, said))


@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1", "balanced_accuracy", "loss"])
def test_the_best_epoch_is_best_by_the_metric_that_is_monitored(monitor: str) -> None:
    record = {"val_loss": 1.0, "val_accuracy": 0.5, "val_macro_f1": 0.5, "val_balanced_accuracy": 0.5}
    better = record | {f"val_{monitor}": 0.9}
    others = [record | {f"val_{name}": 0.0 if name == "loss" else 1.0} for name in ("accuracy", "macro_f1")]
    key = task(monitor=monitor).selection_key
    assert key(better) > key(record)
    if monitor in ("balanced_accuracy", "loss"):
        assert all(key(better) > key(other) for other in others)


def test_the_long_tail_is_the_usual_exponential_profile(some_of_the_data, own_cache) -> None:
    even = load_images("cifar10", data_dir=str(some_of_the_data), val_fraction=0.2)
    tailed = load_images("cifar10", data_dir=str(some_of_the_data), val_fraction=0.2, long_tail=10)
    counts = [np.bincount(data.train.arrays.labels[data.train.ids], minlength=10) for data in (even, tailed)]
    wanted = [int(counts[0].max() * 10 ** (-label / 9)) for label in range(10)]
    assert counts[1].tolist() == np.minimum(wanted, counts[0]).tolist()
    assert set(tailed.train.ids) <= set(even.train.ids)
    for part in ("val", "test"):
        assert np.array_equal(getattr(even, part).ids, getattr(tailed, part).ids)


def test_metrics_of_classes_are_written_for_each_epoch(tmp_path: Path) -> None:
    codes, printed = train([*IMBALANCED, str(tmp_path)])
    assert codes == [0], printed
    history = json.loads((tmp_path / "run" / "train.json").read_text())
    scores = [epoch["val_macro_f1"] for epoch in history["epochs"]]
    assert history["best_epoch"] == 1 + int(np.argmax(scores))
    assert all(0 <= epoch["val_balanced_accuracy"] <= 1 for epoch in history["epochs"])

"""Several labels an image: read as they are kept, dealt out in proportion, learned, judged, predicted by themselves."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import timm.loss
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

import train
from common.errors import UserError
from data.dataset import DataSplits, load_images
from data.iterative_split import iterative_split
from engine.checkpoints import best_weights
from infer import main as infer
from options.train import parse_train
from tasks.multilabel import histograms, losses
from tests.conftest import write_images
from tests.driver import leave_pictures_blank
from tests.driver import train as train_in_processes
from tests.fixtures import two_pieces

pytestmark = pytest.mark.draws

NAMES = ["bird", "cat", "dog"]
TRUTH = [[name for bit, name in enumerate(NAMES) if number >> bit & 1] for number in range(8)] * 8


def truth_of(data: DataSplits) -> dict[str, list[str]]:
    """The names of each image's labels, by the image's name."""
    return {
        name.rpartition("/")[2]: [data.class_names[k] for k in np.flatnonzero(data.targets[label])]
        for part in (data.train, data.val, data.test)
        for name, label in zip(part.names(), part.arrays.labels[part.ids], strict=True)
    }


def flags(labels: list[str]) -> dict[str, int]:
    return {name: int(name in labels) for name in NAMES}


WRITTEN = {
    "lists of names": lambda labels: {"labels": labels},
    "lists of numbers": lambda labels: {"labels": [NAMES.index(name) for name in labels]},
    "columns of 0 and 1": flags,
    "columns of true and false": lambda labels: {name: bool(bit) for name, bit in flags(labels).items()},
}


def write_table(folder: Path, as_kept: Callable[[list[str]], dict], truth: list[list[str]], split: str) -> None:
    random, rows = np.random.default_rng(len(truth)), []
    for labels in truth:
        png = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(png, "PNG")
        rows.append({"image": {"bytes": png.getvalue(), "path": None}, **as_kept(labels)})
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")


@pytest.mark.parametrize("kept", WRITTEN)
def test_parquet_tables_say_which_labels_an_image_has(kept: str, tmp_path: Path, own_cache) -> None:
    write_table(tmp_path / "set", WRITTEN[kept], TRUTH, "train")
    data = load_images(str(tmp_path / "set"), several=True)
    assert data.class_names == (["0", "1", "2"] if kept == "lists of numbers" else NAMES)
    found = truth_of(data)
    for number, labels in enumerate(TRUTH):
        assert [data.class_names[NAMES.index(name)] for name in labels] == found[f"train[{number}]"]


CELLS = {  # what a table of labels says of an image; one without a label cannot be told from a cell left empty
    "cat|dog": lambda labels: "|".join(labels),
    "cat; dog": lambda labels: "; ".join(labels),
    "cat dog": lambda labels: " ".join(labels),
}


@pytest.mark.parametrize("cells", CELLS)
def test_cells_of_text_say_it_too(cells: str, tmp_path: Path, own_cache) -> None:
    write_images(tmp_path / "my photos", 64)
    truth = [labels or ["bird"] for labels in TRUTH]
    lines = [f"{number}.png,{CELLS[cells](labels)}" for number, labels in enumerate(truth)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,tags", *lines]))
    data = load_images(str(tmp_path / "my photos"), labels=str(tmp_path / "labels.csv"), several=True)
    assert truth_of(data) == {f"{number}.png": labels for number, labels in enumerate(truth)}


@pytest.mark.parametrize("named", [None, "bird,cat,dog"])
def test_columns_of_0_and_1_of_a_table_beside_a_folder_know_images_without_any_label(
    named: str | None, tmp_path: Path, own_cache
) -> None:
    write_images(tmp_path / "photos", 64)
    lines = [f"{number}.png,{number % 7},{','.join(map(str, flags(TRUTH[number]).values()))}" for number in range(64)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,age,bird,cat,dog", *lines]))
    data = load_images(str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"), several=True, label_column=named)
    assert truth_of(data) == {f"{number}.png": TRUTH[number] for number in range(64)}
    assert data.class_counts() == [sum(name in truth for truth in _of(data.train, data)) for name in NAMES]


def _of(part, data: DataSplits) -> list[list[str]]:
    found = truth_of(data)
    return [found[name.rpartition("/")[2]] for name in part.names()]


FAULTS = {
    "a label that train lacks": (["test", "cat|fish"], None, "the test split of .* has labels that train lacks: fish"),
    "no such column": (None, "tgas", "--label-column tgas: .* has no such column; did you mean tags"),
    "neither 0 nor 1": (None, "age,tags", "--label-column tags: .* has cat in row 1, which is neither 0 nor 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_labels_is_said_in_a_line(fault: str, tmp_path: Path, own_cache) -> None:
    row, column, words = FAULTS[fault]
    write_images(tmp_path / "photos", 20)
    rows = [[f"{number}.png", *(["train", "cat|dog"] if number % 2 else ["train", "cat"])] for number in range(20)]
    if row is not None:
        rows[3][1:] = row
    lines = [",".join([*row, str(number)]) for number, row in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,split,tags,age", *lines]))
    with pytest.raises(UserError, match=words):
        load_images(
            str(tmp_path / "photos"),
            labels=str(tmp_path / "labels.csv"),
            split_column="split",
            several=True,
            label_column=column,
        )


def test_every_part_has_its_share_of_every_label_and_equal_images_stay_together() -> None:
    random = np.random.default_rng(0)
    chances = np.array([0.5, 0.3, 0.1, 0.03, 0.01, 0.004])
    sets = (random.random((3000, 6)) < chances).astype(np.uint8)
    hashes = random.integers(0, 2800, 3000).astype(np.uint64)  # some images more than once
    shares = [0.7, 0.1, 0.2]
    parts = iterative_split(sets, hashes, shares, seed=1)
    assert all(len(set(parts[hashes == value])) == 1 for value in np.unique(hashes))
    for part, share in enumerate(shares):
        chosen = parts == part
        assert abs(chosen.sum() - share * 3000) <= 30
        assert (abs(sets[chosen].sum(0) - share * sets.sum(0)) <= 2).all()
    assert np.array_equal(parts, iterative_split(sets, hashes, shares, seed=1))
    assert not np.array_equal(parts, iterative_split(sets, hashes, shares, seed=2))
    assert (iterative_split(sets, hashes, [1, 0], seed=1) == 0).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0, 4.0])
def test_the_asymmetric_loss_is_timms_and_so_is_its_gradient(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 7, generator=generator)
    targets = (torch.rand(50, 7, generator=generator) < 0.3).float()
    found = []
    for loss in (losses.asymmetric(gamma), timm.loss.AsymmetricLossMultiLabel(gamma_neg=gamma, gamma_pos=1)):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, targets)
        value = value if value.ndim == 0 else value.sum(1).mean()  # timm's is of an image, and so of all its classes
        found.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_validation_keeps_of_logits_gives_average_precision_and_the_best_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(4000, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.02, 0.0])).float()
    logits = 2 * torch.randn(4000, 4, generator=generator) + 3 * targets - 2
    halves = [histograms.count(logits[part], targets[part]) for part in (slice(0, 1500), slice(1500, None))]
    there, absent = (sum(half[name] for half in halves).view(4, -1).numpy() for name in ("there", "absent"))
    precisions = histograms.average_precisions(there, absent)
    thresholds, f1 = histograms.best_thresholds(there, absent)
    probabilities = logits.sigmoid().numpy()
    for k in range(3):
        exact = average_precision_score(targets[:, k].numpy(), probabilities[:, k])
        assert precisions[k] == pytest.approx(exact, abs=3e-3)
        truth = targets[:, k].numpy()
        precision, recall, _ = precision_recall_curve(truth, probabilities[:, k])  # at all thresholds
        scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        own = f1_score(truth, probabilities[:, k] >= thresholds[k])
        assert own == pytest.approx(f1[k], abs=1e-3) and own >= scores.max() - 3e-3
    assert (precisions[3], thresholds[3]) == (0, 0.5), "of a class that is never there nothing can be said"


USELESS = {
    "--class-weights auto": "--class-weights: of no use for --task multilabel",
    "--balance sqrt": "--balance: of no use for --task multilabel",
    "--loss focal=2": "--loss focal=2: of no use for --task multilabel",
    "--monitor balanced_accuracy": "--monitor balanced_accuracy: of no use for --task multilabel",
    "--task classify --loss asymmetric": "--loss asymmetric: of no use for --task classify",
    "--task classify --monitor map": "--monitor map: of no use for --task classify",
}


@pytest.mark.parametrize("options", USELESS)
def test_options_of_the_other_task_are_refused(options: str) -> None:
    with pytest.raises(UserError, match=USELESS[options]):
        parse_train(["--task", "multilabel", *options.split()])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, real_data: str) -> Path:
    folder = tmp_path_factory.mktemp("two pieces") / "fashion_two"
    two_pieces.main(Path(real_data) / "fashion_mnist", folder, {"train": 600, "test": 150})
    return folder


OPTIONS = (
    "--task multilabel --model small_cnn --epochs 3 --batch-size 50 --augment flip,mixup --loss asymmetric "
    "--track none --cpu --mixed-precision no --run-name run"
).split()


def test_a_run_is_judged_as_scikit_learn_judges_it_and_its_thresholds_go_with_the_weights(
    two: Path, tmp_path: Path, own_cache, capsys
) -> None:
    results = train.main([*OPTIONS, "--dataset", str(two), "--output-dir", str(tmp_path)])
    content = best_weights.load(tmp_path / "run" / "best.pth")
    history = json.loads((tmp_path / "run" / "train.json").read_text())
    assert content["thresholds"] == history["epochs"][history["best_epoch"] - 1]["val_thresholds"]
    assert history["best_epoch"] == max(history["epochs"], key=lambda row: row["val_map"])["epoch"]

    with pytest.raises(SystemExit) as ended:
        infer(["--weights", str(tmp_path / "run"), "--cpu", "--output", str(tmp_path / "test.json")])
    assert ended.value.code == 0
    rows = json.loads((tmp_path / "test.json").read_text())
    names = content["class_names"]
    truth = np.array([[name in row["true"] for name in names] for row in rows])
    probabilities = np.array([[row["probabilities"][name] for name in names] for row in rows])
    said = np.array([[name in row["labels"] for name in names] for row in rows])
    assert np.array_equal(said, probabilities >= np.float32(content["thresholds"]))
    assert results["map"] == pytest.approx(average_precision_score(truth, probabilities, average="macro"), abs=1e-6)
    assert results["f1"]["macro"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-9)
    assert results["f1"]["micro"] == pytest.approx(f1_score(truth, said, average="micro"), abs=1e-9)
    assert 0.15 < results["map"] < 1
    assert "test mAP " in capsys.readouterr().out
    for picture in ("average_precision.png", "examples.png", "curves.png"):
        assert (tmp_path / "run" / picture).stat().st_size > 5000


def test_files_are_predicted_and_explained(two: Path, tmp_path: Path, own_cache, capsys, monkeypatch) -> None:
    leave_pictures_blank(monkeypatch.setattr)
    train.main([*OPTIONS, "--epochs", "1", "--dataset", str(two), "--output-dir", str(tmp_path)])
    write_images(tmp_path / "photos", 3)
    capsys.readouterr()
    for more in ([], ["--explain", "gradcam", "--output", str(tmp_path / "maps")]):
        with pytest.raises(SystemExit) as ended:
            infer(["--weights", str(tmp_path / "run"), "--cpu", *more, str(tmp_path / "photos")])
        assert ended.value.code == 0
    assert capsys.readouterr().out.count(".png: ") == 3
    assert (tmp_path / "maps" / "maps-001.png").exists()
    with pytest.raises(SystemExit) as ended:
        infer(["--weights", str(tmp_path / "run"), "--cpu", "--explain", "gradcam", "--output", str(tmp_path / "test")])
    assert ended.value.code == 0 and (tmp_path / "test" / "average.png").exists()


def test_two_processes_come_to_the_validation_of_one(two: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        options = [*OPTIONS, "--model", "mlp", "--epochs", "2", "--dataset", str(two)]
        codes, printed = train_in_processes([*options, "--output-dir", str(tmp_path / str(processes))], processes)
        assert codes == [0] * processes, printed
        history = json.loads((tmp_path / str(processes) / "run" / "train.json").read_text())
        found.append([row["val_map"] for row in history["epochs"]])
    assert found[0] == pytest.approx(found[1], abs=2e-3)

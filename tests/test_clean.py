"""Duplicates, blank and tiny images and, from folds, wrong labels are found; --exclude leaves out what a list flags."""

import csv
import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_digits

import clean
import train
from cleaning import near_duplicates
from cleaning.faults import Faults, Pool, find_faults
from cleaning.report import about_faults, about_labels
from common.errors import UserError
from data.dataset import DataSplits, Subset, load_images
from options.train import parse_train
from tests.conftest import fresh_process, predict, write_images
from tests.fixtures.flipped_labels import flipped

pytestmark = pytest.mark.draws


def write_list(path: Path, flags: dict[str, str], header: str = "file,flagged") -> str:
    path.write_text("\n".join([header, *(f"{name},{flag}" for name, flag in flags.items())]) + "\n")
    return str(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Duplicates


@pytest.mark.parametrize("radius", [1, 2, 4, 8])
def test_near_pairs_are_those_of_a_comparison_of_all_with_all(radius: int) -> None:
    random = np.random.default_rng(radius)
    hashes = random.integers(0, 2**64, 150, dtype=np.uint64)
    for bits in range(1, 10):  # of each some that differ by so many bits
        flips = [sum(2**bit for bit in random.permutation(64)[:bits].tolist()) for _ in range(20)]
        hashes = np.concatenate([hashes, hashes[:20] ^ np.array(flips, dtype=np.uint64)])
    hashes = random.permutation(np.unique(hashes))
    expected = [
        [i, j]
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if int(hashes[i] ^ hashes[j]).bit_count() <= radius
    ]
    assert near_duplicates.near_pairs(hashes, radius).tolist() == expected and expected
    for few in (0, 1):
        assert near_duplicates.near_pairs(hashes[:few], radius).shape == (0, 2)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (20, 50, 3)])
def test_the_perceptual_hash_is_the_cosine_transform_cut_at_its_median(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    hashes = near_duplicates.perceptual_hashes(images, np.arange(5, 40))
    for image, found in zip(images[5:], hashes, strict=True):
        lowest = dctn(image.mean(2))[:8, :8].flatten()
        clear = np.abs(lowest - np.median(lowest)) > 1e-4 * np.abs(lowest).max()  # but for rounding
        bits = np.array([int(found) >> place & 1 for place in reversed(range(64))])
        assert (bits == (lowest > np.median(lowest)))[clear].all() and clear.sum() > 50


def photo(seed: int, size: int = 32) -> Image.Image:
    """Something smooth, as photos are: noise of 6x6 pixels, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def faulty(tmp_path: Path, own_cache: Path) -> DataSplits:
    """A folder of classes with an image of each fault."""
    root = tmp_path / "faulty"
    for number, (split, name) in enumerate(itertools.product(("train", "test"), ("cat", "dog"))):
        (root / split / name).mkdir(parents=True)
        for index in range(12):
            photo(100 * number + index).save(root / split / name / f"{index:02}.png")
    shutil.copy(root / "train/cat/00.png", root / "train/dog/copy of cat.png")
    shutil.copy(root / "train/cat/01.png", root / "test/cat/copy.png")
    photo(2).save(root / "train/cat/near.jpg", quality=70)
    photo(103, 64).point(lambda value: value * 0.8 + 20).save(root / "test/cat/brighter.png")  # of train/dog/03.png
    Image.new("RGB", (32, 32), (9, 9, 200)).save(root / "train/dog/blank.png")
    photo(7, 7).save(root / "train/dog/tiny.png")
    return load_images(str(root), image_size=32, folds=2, fold=0)


def faults_of(data: DataSplits) -> tuple[Pool, Faults]:
    train_split = data.train.arrays
    pool = Pool({"train": Subset(train_split, np.arange(len(train_split.labels))), "test": data.test})
    return pool, find_faults(pool, radius=4)


def test_each_fault_is_found(faulty: DataSplits) -> None:
    pool, faults = faults_of(faulty)

    def named(numbers: np.ndarray) -> set[str]:
        return {"/".join(Path(pool.names[number]).parts[-3:]) for number in numbers}

    exact = [named(group) for group in faults.exact]
    assert sorted(map(sorted, exact)) == [
        ["test/cat/copy.png", "train/cat/01.png"],
        ["train/cat/00.png", "train/dog/copy of cat.png"],
    ]
    assert sorted(sorted(named(group)) for group in faults.near) == [
        ["test/cat/brighter.png", "train/dog/03.png"],
        ["train/cat/02.png", "train/cat/near.jpg"],
    ]
    assert named(faults.blank) == {"train/dog/blank.png"}
    assert named(faults.tiny) == {"train/dog/tiny.png"}
    lines = about_faults(pool, faults, faulty.class_names)
    assert lines[0] == "exact    4 duplicates in 2 groups: 1 across train and test, 1 with different labels"
    assert lines[1].count("(cat)") == lines[1].count("(dog)") == 1 and "copy of cat.png (dog)" in lines[1]
    assert lines[2] == "near     4 duplicates in 2 groups: 1 across train and test, 1 with different labels"
    assert lines[-1] == "blank    1 image of one colour; 1 tiny"


def test_what_stays_encoded_has_the_same_faults(faulty: DataSplits, tmp_path: Path) -> None:
    live = load_images(str(tmp_path / "faulty"), image_size=32, folds=2, fold=0, decode="live")
    assert live.live
    for one, other in zip(vars(faults_of(faulty)[1]).values(), vars(faults_of(live)[1]).values(), strict=True):
        assert list(map(str, one)) == list(map(str, other))


# --exclude


def as_folders(tmp_path: Path) -> dict:
    for name in ("cat", "dog"):
        write_images(tmp_path / "pets" / name, 12)
    return {"dataset": str(tmp_path / "pets")}


def as_table(tmp_path: Path) -> dict:
    images = np.arange(24).reshape(24, 1, 1) * np.ones((24, 8, 8))
    write_parquet(tmp_path / "pets" / "train.parquet", images, [0, 1] * 12)
    return {"dataset": str(tmp_path / "pets")}


def as_labels(tmp_path: Path) -> dict:
    write_images(tmp_path / "pets", 24)
    rows = "\n".join(f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(24))
    (tmp_path / "labels.csv").write_text("file,label\n" + rows + "\n")
    return {"dataset": str(tmp_path / "pets"), "labels": str(tmp_path / "labels.csv")}


def write_parquet(path: Path, images: np.ndarray, labels: list[int]) -> None:
    rows = []
    for image, label in zip(images.astype(np.uint8), labels, strict=True):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        rows.append({"image": {"bytes": png.getvalue(), "path": None}, "label": label})
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("kept_as", [as_folders, as_table, as_labels])
@pytest.mark.parametrize("decode", ["cache", "live"])
def test_exactly_the_flagged_images_are_left_out_of_train(
    kept_as: Callable, decode: str, tmp_path: Path, own_cache: Path
) -> None:
    where = {**kept_as(tmp_path), "decode": decode}
    whole = load_images(**where)
    names, held_out = whole.train.names(), whole.val.names()
    flags = {name: "yes" if index % 3 == 0 else "no" for index, name in enumerate(names)} | {held_out[0]: "yes"}
    less = load_images(**where, exclude=write_list(tmp_path / "list.csv", flags))
    assert less.train.names() == [name for index, name in enumerate(names) if index % 3]
    assert (less.val.names(), less.test.names()) == (held_out, whole.test.names())
    count = len(names) - len(less.train)
    assert (
        f"note: {count} images of train are left out by list.csv; 1 others that it flags are validated or tested on, "
        "and stay"
    ) in less.remarks


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["file,flagged", "0.png,yes"], "no training image is called 0.png: correct the list"),
        (["file,label", "0.png,cat"], "there is no column flagged: give a list as clean.py writes it"),
        (["file,flagged", "0.png,perhaps"], "line 2: flagged says 'perhaps', not yes or no"),
        ([], "there is no column file or flagged"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    lines: list[str], reason: str, tree: Callable, tmp_path: Path, own_cache: Path
) -> None:
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(UserError) as refused:
        load_images(str(tree("cat", "dog")), exclude=str(tmp_path / "list.csv"))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_list_that_leaves_nothing_of_a_class_is_refused(tree: Callable, tmp_path: Path, own_cache: Path) -> None:
    pets = tree("cat", "dog")
    flags = {str(path): "yes" for path in (pets / "cat").iterdir()}
    with pytest.raises(UserError, match="no training image is left of cat"):
        load_images(str(pets), exclude=write_list(tmp_path / "list.csv", flags))
    with pytest.raises(UserError, match=r"none.csv: No such file or directory; give a list"):
        load_images(str(pets), exclude="none.csv")


@pytest.mark.parametrize("other", ["--stream", "--task multilabel", "--task transform --transform resize=4"])
def test_where_a_list_makes_no_sense_it_is_refused(other: str) -> None:
    with pytest.raises(UserError, match=r"--exclude.*: of no use .*leave it out"):
        parse_train(["--exclude", "list.csv", *other.split()])


# From training to training


@pytest.fixture
def group(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three folds on digits of which 5 % have another label."""
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    digits = load_digits()
    labels = flipped(digits.target[:1200], 10)
    images = digits.images * 255 / 16
    write_parquet(tmp_path / "digits8" / "train.parquet", images[:1200], labels.tolist())
    write_parquet(tmp_path / "digits8" / "test.parquet", images[1200:1400], digits.target[1200:1400].tolist())
    start(tmp_path, "--folds", "3", "--run-name", "folds")
    return tmp_path / "runs" / "folds"


def start(tmp_path: Path, *more: str) -> dict:
    fresh_process()
    options = "--cpu --track none --model mlp --epochs 3 --batch-size 64 --mixed-precision no".split()
    return train.main([*options, "--dataset", str(tmp_path / "digits8"), "--output-dir", str(tmp_path / "runs"), *more])


def refusal(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        clean.main(["--cpu", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line and not line.startswith("Generating"))  # which `datasets` does
    assert end.value.code == 2 and line.startswith("error: ")
    return line


def test_from_folds_to_a_run_without_the_wrong_labels(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fresh_process()
    capsys.readouterr()
    clean.main(["--cpu", str(group)])
    printed = capsys.readouterr().out
    rows = read_rows(group / "suspects.csv")
    confidences = [float(row["label_probability"]) for row in rows]
    assert confidences == sorted(confidences) and all(float(row["margin"]) <= 0 for row in rows)
    truth = load_digits().target[:1200]
    wrong = set(np.flatnonzero(flipped(truth, 10) != truth))
    flagged = {int(row["file"].removeprefix("train[")[:-1]) for row in rows if row["flagged"] == "yes"}
    assert len(flagged & wrong) / len(wrong) > 0.7
    assert len(flagged & wrong) / len(flagged) > 0.7
    right = [str(truth[int(row["file"][6:-1])]) == row["suggested"] for row in rows if row["flagged"] == "yes"]
    assert np.mean(right) > 0.7
    assert f"labels   {len(flagged)} of 1,200 probably wrong" in printed and "own mistake" not in printed
    with Image.open(group / "suspects.png") as sheet:
        assert min(sheet.size) > 500
    assert {row["kind"] for row in read_rows(group / "duplicates.csv")} <= {"exact", "near", "blank", "tiny"}
    test = start(tmp_path, "--exclude", str(group / "suspects.csv"), "--run-name", "less", "--epochs", "1")
    whole = load_images(str(tmp_path / "digits8"))
    assert test["data"]["val_images"] == len(whole.val)
    assert test["data"]["train_images"] == len(set(whole.train.ids.tolist()) - flagged)
    assert "images of train are left out by suspects.csv" in capsys.readouterr().out
    (group / "suspects.csv").unlink()  # of no use to the test
    code, out, _ = predict(capsys, "--weights", tmp_path / "runs" / "less")
    assert code == 0 and "test accuracy" in out
    refuses_what_is_no_whole_group(group, tmp_path, capsys)


def test_runs_that_know_little_are_not_to_be_believed() -> None:
    assert "warning: the runs are right on 40.00 % only" in about_labels(10, np.arange(6), np.arange(3))
    assert "warning" not in about_labels(10, np.arange(4), np.arange(3))


def refuses_what_is_no_whole_group(group: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "holds no runs of train.py --folds" in refusal(capsys, tmp_path / "runs" / "less")
    assert "holds no runs of train.py --folds" in refusal(capsys, tmp_path / "none")
    assert "cannot write in" in refusal(capsys, group, "--output-dir", tmp_path / "none")
    assert "out of range" in refusal(capsys, group, "--radius", "9")
    shutil.copytree(group / "fold-2", tmp_path / "aside")
    (group / "fold-2" / "test.json").unlink()
    assert "fold-2 is not done: go on with its runs by --resume auto" in refusal(capsys, group)
    shutil.rmtree(group / "fold-2")
    assert "lacks fold 2 of 3" in refusal(capsys, group)
    shutil.move(tmp_path / "aside", group / "fold-2")
    digits = load_digits()
    write_parquet(tmp_path / "digits8" / "train.parquet", digits.images[:600] * 15, digits.target[:600].tolist())
    assert "images of" in (said := refusal(capsys, group)) and "have changed since" in said

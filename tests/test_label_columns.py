"""The column of labels is the one that is meant, no label is no class, and hidden test labels stop nothing."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import load_images
from tests.conftest import fresh_process, predict, write_images

COUNT = 30


def table(path: Path, labels: dict[str, tuple[list, object]], images: tuple[str, ...] = ("image",)) -> Path:
    """A parquet file of made-up pictures; `labels`: column -> (values that repeat, its feature). Returns its folder."""
    import datasets

    path.parent.mkdir(exist_ok=True, parents=True)
    generator = np.random.default_rng(len(path.name))
    columns = {
        name: [Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(COUNT)]
        for name in images
    }
    features = {name: datasets.Image() for name in images} | {name: feature for name, (_, feature) in labels.items()}
    columns |= {name: [values[i % len(values)] for i in range(COUNT)] for name, (values, _) in labels.items()}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    return path.parent


def classes(*names: str) -> object:
    import datasets

    return datasets.ClassLabel(names=list(names))


def plain(kind: str) -> object:
    import datasets

    return datasets.Value(kind)


def hospital() -> tuple[list, object]:
    return [0, 1, 2, 3, 4], classes(*"ABCDE")


@pytest.mark.parametrize("typed", [True, False])
def test_label_goes_before_a_column_of_more_classes(typed, tmp_path, own_cache):
    label = ([0, 1], classes("benign", "malignant")) if typed else (["benign", "malignant"], plain("string"))
    folder = table(tmp_path / "set" / "train.parquet", {"label": label, "hospital": hospital()})
    assert load_images(str(folder), val_fraction=0).class_names == ["benign", "malignant"]
    by_hospital = load_images(str(folder), val_fraction=0, label_column="hospital")
    assert by_hospital.class_names == list("ABCDE")


def test_the_only_column_of_classes_is_taken_whatever_its_name(tmp_path, own_cache):
    folder = table(
        tmp_path / "set" / "train.parquet", {"kind": ([0, 1], classes("a", "b")), "id": ([7], plain("int64"))}
    )
    assert load_images(str(folder), val_fraction=0).class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "asked", "says"),
    [
        (
            {"organ": hospital, "site": hospital},
            {},
            r"2 columns of type ClassLabel.*--label-column, one of organ, site",
        ),
        ({"labels": ["a", "b"]}, {}, r"0 columns of type ClassLabel.*--label-column, one of labels"),
        (
            {"label": ["a", "b"]},
            {"label_column": "labels"},
            r"--label-column labels: there is no such column.*: label$",
        ),
        ({"label": ["a", "b"]}, {"label_column": "image"}, r"--label-column image: this column holds no class labels"),
        ({"label": ["a", "b"]}, {"coarse": True}, r"--coarse: .* has one set of classes only"),
        (
            {"label": ["a", "b"]},
            {"coarse": True, "label_column": "label"},
            r"--coarse and --label-column .*leave one out",
        ),
        ({"a": hospital, "b": hospital, "c": hospital}, {"coarse": True}, r"3 sets of classes: give --label-column"),
        ({"label": [0.5, 1.0]}, {}, r"holds 0\.5: class labels are whole numbers or words"),
        ({"label": [None]}, {}, r"the train split of .* has no labels: give --label-column"),
    ],
)
def test_a_column_that_is_not_clear_is_refused_by_the_option_that_names_it(columns, asked, says, tmp_path, own_cache):
    made = {
        name: what() if callable(what) else (what, plain("float64" if 1.0 in what else "string"))
        for name, what in columns.items()
    }
    folder = table(tmp_path / "set" / "train.parquet", made)
    with pytest.raises(UserError, match=says):
        load_images(str(folder), **asked)


def test_a_named_column_of_words_and_one_of_two_image_columns(tmp_path, own_cache):
    folder = table(tmp_path / "set" / "train.parquet", {"labels": (["b", "a"], plain("string"))}, ("left", "right"))
    with pytest.raises(UserError, match=r"2 image columns: give --image-column, one of left, right"):
        load_images(str(folder), label_column="labels")
    sides = [
        load_images(str(folder), label_column="labels", image_column=side, val_fraction=0) for side in ("left", "right")
    ]
    assert [data.class_names for data in sides] == [["a", "b"]] * 2
    assert not np.array_equal(sides[0].train.arrays.images, sides[1].train.arrays.images)
    with pytest.raises(UserError, match=r"--image-column middle: .* has no such column, but left, right, labels"):
        load_images(str(folder), label_column="labels", image_column="middle")
    with pytest.raises(UserError, match=r"--image-column labels: .*holds no encoded images"):
        load_images(str(folder), label_column="labels", image_column="labels")


def test_image_goes_before_another_column_of_images(tmp_path, own_cache):
    folder = table(tmp_path / "set" / "train.parquet", {"label": (["b", "a"], plain("string"))}, ("depth", "image"))
    by_itself, by_name = (
        load_images(str(folder), image_column=column, val_fraction=0).train.arrays.images for column in (None, "image")
    )
    assert np.array_equal(by_itself, by_name)


def test_words_in_either_form_of_accents_are_one_class(tmp_path, own_cache):
    cafe = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folder = table(tmp_path / "set" / "train.parquet", {"label": ([*cafe, "Bar", "bar"], plain("string"))})
    data = load_images(str(folder), val_fraction=0)
    assert data.class_names == ["Bar", "bar", cafe[0]] and data.train.arrays.labels[:4].tolist() == [2, 2, 0, 1]
    assert "note: classes that differ in capital letters alone: Bar and bar" in data.remarks
    typed = table(tmp_path / "typed" / "train.parquet", {"label": ([0, 1], classes(*cafe))})
    with pytest.raises(UserError, match=r"names differ in the form of their accents alone"):
        load_images(str(typed))


@pytest.mark.parametrize(("option", "says"), [("image_column", "--image-column"), ("label_column", "--label-column")])
def test_what_is_no_table_has_no_columns(option, says, tree, own_cache):
    for dataset in (str(tree("cat", "dog")), "digits"):
        with pytest.raises(UserError, match=f"{says}: .* is no table"):
            load_images(dataset, **{option: "label"})


def test_coarse_is_the_smaller_of_two_sets(tmp_path, own_cache):
    coarse = ([0, 0, 1], classes("tree", "fish"))
    fine = {"fine_label": ([0, 1, 2], classes("oak", "elm", "cod")), "coarse_label": coarse}
    folder = table(tmp_path / "set" / "train.parquet", fine)
    assert load_images(str(folder), val_fraction=0).class_names == ["oak", "elm", "cod"]
    assert load_images(str(folder), val_fraction=0, coarse=True).class_names == ["tree", "fish"]


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["a", "b", None], "string", ["a", "b"]),
        (["a", "b", ""], "string", ["a", "b"]),
        ([3, 10, -1], "int64", ["3", "10"]),
        ([3.0, 10.0, float("nan")], "float64", ["3", "10"]),
        ([0, 1, -1], "classes", ["a", "b"]),
        ([0, 1, None], "classes", ["a", "b"]),
    ],
)
def test_a_sample_without_a_label_is_refused_by_row_or_left_out_and_counted(values, kind, names, tmp_path, own_cache):
    feature = classes("a", "b") if kind == "classes" else plain(kind)
    folder = table(tmp_path / "set" / "train.parquet", {"label": (values, feature)})
    table(folder / "test.parquet", {"label": (values[:2], feature)})
    with pytest.raises(UserError, match=r"^10 of the images .*have no label.*--skip-bad-images: train\[2\]: it has no"):
        load_images(str(folder), val_fraction=0)
    data = load_images(str(folder), val_fraction=0, skip_bad_images=True)
    assert (data.class_names, len(data.train), data.notes["bad_images_left_out"]) == (names, 20, 10)
    assert data.train.arrays.labels.tolist() == [0, 1] * 10
    assert data.remarks == ["note: 10 images are left out, without a label or unreadable"]


def test_a_name_that_no_image_has_is_no_obstacle(tmp_path, own_cache):
    names = classes("background", "cat", "dog")
    folder = table(tmp_path / "set" / "train.parquet", {"label": ([1, 2], names)})
    data = load_images(str(folder))
    assert data.class_names == ["background", "cat", "dog"] and set(data.train.arrays.labels) == {1, 2}
    table(folder / "test.parquet", {"label": ([0, 1, 2], names)})
    with pytest.raises(UserError, match=r"no training image is left of background"):
        load_images(str(folder))


def test_splits_that_are_empty_or_no_split_are_left_out_by_name(tmp_path, own_cache):
    import datasets

    folder = table(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", {"label": ([0, 1], classes("a", "b"))})
    table(folder / "extra-00000-of-00001.parquet", {"label": ([0, 1], classes("a", "b"))})
    whole = datasets.Dataset.from_parquet(str(folder / "train-00000-of-00001.parquet"))
    whole.select([]).to_parquet(folder / "test-00000-of-00001.parquet")
    for _ in range(2):  # read, then from the cache
        data = load_images(str(folder.parent), val_fraction=0)
        assert (len(data.train), len(data.test)) == (24, 6)
        assert data.remarks == [
            "note: the split test is left out: it is empty",
            "note: the split extra is left out: 30 images that are neither train, validation nor test",
        ]


def hidden(folder: Path, kind: str, validation: bool) -> Path:
    """A data set whose test labels are kept secret, with or without a validation split."""
    splits = ["train", *(["validation"] if validation else [])]
    if kind == "tree":
        for split in splits:
            for name in ("cat", "dog"):
                write_images(folder / split / name, 15, seed=len(split))
        write_images(folder / "test", 10, seed=9)
        return folder
    feature = plain("string") if kind == "words" else classes("cat", "dog")
    for split in splits:
        table(folder / f"{split}.parquet", {"label": (["cat", "dog"] if kind == "words" else [0, 1], feature)})
    table(folder / "test.parquet", {"label": ([None if kind == "words" else -1], feature)})
    return folder


@pytest.mark.parametrize("kind", ["tree", "classes", "words"])
@pytest.mark.parametrize("validation", [True, False])
def test_hidden_test_labels_leave_the_rest_to_be_tested_on(kind, validation, tmp_path, own_cache):
    data = load_images(str(hidden(tmp_path / "set", kind, validation)))
    tested = "the validation split is tested on" if validation else "a part of train is held out"
    assert data.remarks == [f"note: the test split has no labels: {tested} instead"]
    assert (len(data.train), len(data.val), len(data.test)) == ((26, 4, 30) if validation else (22, 2, 6))
    assert data.class_names == ["cat", "dog"] and len(data.unlabelled) == (10 if kind == "tree" else COUNT)


def test_a_run_predicts_the_images_whose_labels_are_hidden(tmp_path, own_cache, monkeypatch, capsys):
    import train

    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    folder = hidden(tmp_path / "set", "tree", validation=True)
    fresh_process()
    options = ["--dataset", str(folder), "--cpu", "--model", "mlp", "--epochs", "1", "--track", "none"]
    train.main([*options, "--mixed-precision", "no", "--output-dir", str(tmp_path), "--run-name", "run"])
    said = capsys.readouterr().out
    assert "on 30 images" in said and "10 images without labels: their classes are in predictions.csv" in said
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(path) for path in sorted((folder / "test").iterdir())]
    predict(capsys, "--weights", tmp_path / "run" / "best.pth", folder / "test", "--output", tmp_path / "again.csv")
    with (tmp_path / "again.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    assert [row["class_1"] for row in rows] == [row["class_1"] for row in again]
    probabilities = np.array([[float(row["probability_1"]) for row in table] for table in (rows, again)])
    assert np.allclose(*probabilities, atol=1e-6)


def test_a_validation_split_without_labels_is_refused(tmp_path, own_cache):
    names = classes("cat", "dog")
    folder = table(tmp_path / "set" / "train.parquet", {"label": ([0, 1], names)})
    table(folder / "validation.parquet", {"label": ([-1], names)})
    with pytest.raises(
        UserError, match=r"the validation split of .* has no labels: give --label-column, or move it away"
    ):
        load_images(str(folder))

"""A table of labels is read as it is meant, or refused with the lines at fault."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest

from common.errors import UserError
from data.dataset import DataSplits, load_images
from tests.conftest import write_images

LOAD = {"val_fraction": 0.2}


@pytest.fixture
def photos(tmp_path: Path, own_cache) -> Path:
    """A folder with spaces that holds scans/0.png to 59.png, all different."""
    write_images(tmp_path / "my scans" / "scans", 60)
    return tmp_path / "my scans"


@pytest.fixture
def load(photos: Path, tmp_path: Path) -> Callable[..., DataSplits]:
    """load(text of a table, options of load_images)."""

    def make(text: str, name: str = "labels.csv", **options: object) -> DataSplits:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_images(str(photos), labels=str(tmp_path / name), **{**LOAD, **options})

    return make


def rows(written: Callable[[int], str] = "scans/{}.png".format, count: int = 60) -> list[str]:
    return [f"{written(number)},{'cat dog owl'.split()[number % 3]}" for number in range(count)]


def labels_of(data: DataSplits) -> dict[str, str]:
    """Each image's class by its number."""
    return {
        Path(name).stem: data.class_names[label]
        for part in (data.train, data.val, data.test)
        for name, label in zip(part.names(), part.arrays.labels[part.ids], strict=True)
    }


EXPECTED = {str(number): ("cat", "dog", "owl")[number % 3] for number in range(60)}


@pytest.mark.parametrize(
    "written", ["scans/{}.png", "{}.png", "{}", "./scans/{}.png", "train/scans/{}.png"], ids=lambda text: text
)
def test_images_are_found_by_path_by_name_and_by_name_without_suffix(written: str, load) -> None:
    data = load("\n".join(["id,label", *rows(written.format)]))
    assert data.class_names == ["cat", "dog", "owl"] and labels_of(data) == EXPECTED


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_says_the_same(suffix: str, photos: Path, tmp_path: Path) -> None:
    table = pandas.DataFrame({"file": [f"scans/{n}.png" for n in range(60)], "kind": [n % 3 + 9 for n in range(60)]})
    path = tmp_path / f"my labels.{suffix}"
    writers = {
        "csv": lambda: table.to_csv(path, index=False, encoding="utf-8-sig"),
        "tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "parquet": lambda: table.to_parquet(path),
    }
    writers[suffix]()
    data = load_images(str(photos), labels=str(path), **LOAD)
    assert data.class_names == ["9", "10", "11"]  # as numbers, not as words
    assert labels_of(data) == {str(n): str(n % 3 + 9) for n in range(60)}


def test_metadata_in_the_folder_is_read_without_being_named(photos: Path) -> None:
    (photos / "metadata.csv").write_text("\n".join(["file_name,label", *rows()]))
    assert labels_of(load_images(str(photos), **LOAD)) == EXPECTED


def test_a_column_says_the_split_by_the_words_that_folders_may_have(load) -> None:
    words = ["Training"] * 40 + ["dev"] * 10 + ["TEST"] * 6 + ["unused"] * 4
    data = load(
        "\n".join(["image,label,part", *(f"{row},{w}" for row, w in zip(rows(), words, strict=True))]),
        split_column="part",
        val_fraction=None,
    )
    found = [sorted(int(Path(name).stem) for name in part.names()) for part in (data.train, data.val, data.test)]
    assert found == [[*range(40)], [*range(40, 50)], [*range(50, 56)]]
    assert any("rows whose part is unused" in remark for remark in data.remarks), data.remarks


def test_a_test_split_without_labels_is_predicted_and_not_scored(load) -> None:
    lines = [f"{row},train" for row in rows(count=50)] + [f"scans/{n}.png,,test" for n in range(50, 60)]
    data = load("\n".join(["image,label,split", *lines]), split_column="split")
    assert len(data.unlabelled) == 10 and len(data.train) + len(data.val) + len(data.test) == 50
    assert any("the test split has no labels" in remark for remark in data.remarks)


@pytest.mark.parametrize("folds", [None, 5])
def test_a_group_is_never_in_two_parts(load, folds: int | None) -> None:
    groups = np.random.default_rng(0).integers(0, 15, 60)
    table = "\n".join(["image,label,patient", *(f"{row},p{group}" for row, group in zip(rows(), groups, strict=True))])
    for seed in range(5):
        options = {"folds": folds, "fold": seed, "val_fraction": None} if folds else {}
        data = load(table, group_column="patient", seed=seed, **options)
        parts = [{groups[int(Path(n).stem)] for n in part.names()} for part in (data.train, data.val, data.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(data.val) and len(data.test) and len(data.train) >= 30
    straddles = load(table, seed=0)  # the control: without the column they are torn apart
    parts = [{groups[int(Path(n).stem)] for n in part.names()} for part in (straddles.train, straddles.val)]
    assert parts[0] & parts[1]


def test_equal_images_join_their_groups(photos: Path, load) -> None:
    (photos / "scans" / "1.png").write_bytes((photos / "scans" / "0.png").read_bytes())
    table = "\n".join(
        ["image,label,g", *(f"{row},{number // 2 if number else 'alone'}" for number, row in enumerate(rows()))]
    )
    for seed in range(5):
        data = load(table, group_column="g", seed=seed)
        part_of = {
            Path(n).stem: which for which, part in enumerate((data.train, data.val, data.test)) for n in part.names()
        }
        assert part_of["0"] == part_of["1"]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (
            lambda lines: [*lines, "scans/99.png,cat", ",dog"],
            {},
            "line 62: no image 'scans/99.png'; line 63: no image ''",
        ),
        (lambda lines: [*lines[:5], "scans/4.png,", *lines[6:]], {}, "line 6: no label"),
        (lambda lines: [*lines[:3], "", "", *lines[3:5], "scans/4.png,", *lines[6:]], {}, "line 8: no label"),
        (lambda lines: [*lines, "scans/7.png,owl"], {}, "lines 9 and 62 do not agree on 7.png"),
        (
            lambda lines: ["image,kind,colour", *(f"{line},red" for line in lines[1:])],
            {},
            "give --label-column, one of image, kind, colour",
        ),
        (
            lambda lines: ["what,label,more", *(f"{line},x" for line in lines[1:])],
            {},
            "give --image-column, one of what, label, more",
        ),
        (
            lambda lines: lines,
            {"label_column": "labl"},
            "--label-column labl: .* has no such column; did you mean label",
        ),
        (lambda lines: lines, {"group_column": "patient"}, "--group-column patient: .* there are image, label"),
        (
            lambda lines: ["image,label,s", *(f"{line},x" for line in lines[1:])],
            {"split_column": "s"},
            "no row says train, only x",
        ),
        (
            lambda lines: [
                "image,label,s,g",
                *(f"{line},{'train' if n < 50 else 'test'},{n % 55}" for n, line in enumerate(lines[1:])),
            ],
            {"split_column": "s", "group_column": "g"},
            "group 0 is in train and in test .line 57.",
        ),
        (
            lambda lines: [
                "image,label,s",
                *(f"{line},train" for line in lines[1:51]),
                *(f"{line}X,test" for line in lines[51:]),
            ],
            {"split_column": "s"},
            "test has classes that train lacks: owlX .line 52.",
        ),
        (lambda lines: ["image,label", 'a,"b'], {}, "cannot be read: "),
    ],
)
def test_faults_are_told_in_one_line_with_their_lines(change: Callable, options: dict, words: str, load) -> None:
    with pytest.raises(UserError, match=words) as refused:
        load("\n".join(change(["image,label", *rows()])), **options)
    assert "\n" not in str(refused.value)


def test_rows_at_fault_are_skipped_and_counted_where_that_is_asked_for(load) -> None:
    lines = ["image,label", *rows(count=50), "scans/50.png,", "nowhere.png,cat"]
    data = load("\n".join(lines), skip_bad_images=True)
    assert len(data.train) + len(data.val) + len(data.test) == 50
    (told,) = [remark for remark in data.remarks if "without an image or a label" in remark]
    assert "2 rows of labels.csv without an image or a label, 9 images that labels.csv does not name" in told


def test_a_table_that_changes_is_read_anew(load) -> None:
    first = load("\n".join(["image,label", *rows()]))
    second = load("\n".join(["image,label", *rows()]).replace("owl", "fox"))
    assert first.class_names == ["cat", "dog", "owl"] and second.class_names == ["cat", "dog", "fox"]


def test_a_table_for_what_is_no_folder_of_images_is_refused(load, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(UserError, match="--labels is for a folder of images"):
        load_images("digits", labels=str(tmp_path / "labels.csv"))

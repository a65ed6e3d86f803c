"""Which folders are splits and which are classes: the rule of `datasets`, and in words what is neither."""

import unicodedata

import pytest

from common.errors import UserError
from data.dataset import DataSplits, load_images
from data.sources import find_source
from explain.explanations import class_numbers
from tests.conftest import fresh_process, predict, write_images

CAFE = {form: unicodedata.normalize(form, "café") for form in ("NFC", "NFD")}


def parts(data: DataSplits) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)


@pytest.mark.parametrize(
    ("train", "test"),
    [("seg_train", "seg_test"), ("training_set", "test_set"), ("Train_data", "eval"), ("train-2", "Evaluation 1")],
)
def test_a_keyword_between_other_words_makes_a_split(train, test, tree, own_cache):
    data = load_images(str(tree(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")), val_fraction=0)
    assert (data.class_names, parts(data)) == (["cat", "dog"], (20, 0, 20))
    assert data.remarks == []


@pytest.mark.parametrize("validation", ["dev", "val_images", "Valid"])
def test_validation_goes_by_all_its_names(validation, tree, own_cache):
    root = tree(*(f"{split}/{name}" for split in ("train", validation, "testing") for name in ("cat", "dog")))
    assert parts(load_images(str(root))) == (20, 20, 20)


def test_a_word_that_only_begins_like_a_split_is_a_class(tree, own_cache):
    root = tree("trainer", "testament", "valley", "developer")
    assert load_images(str(root), val_fraction=0).class_names == ["developer", "testament", "trainer", "valley"]


@pytest.mark.parametrize("train", [("train",), ("train/steam", "train/electric")])
def test_a_class_may_be_called_train(train, tree, own_cache):
    data = load_images(str(tree("bus", "car", *train)), val_fraction=0)
    assert data.class_names == ["bus", "car", "train"] and sum(parts(data)) == 10 * (2 + len(train))
    assert data.remarks == ["note: taken for classes, not for splits: train/ (beside bus/, car/)"]


def test_what_lies_beside_train_and_test_is_left_out_by_name(tree, own_cache):
    root = tree("seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog", "seg_pred")
    (root / "dev").mkdir()
    data = load_images(str(root), val_fraction=0)
    assert (data.class_names, parts(data)) == (["cat", "dog"], (20, 0, 20))
    assert data.remarks == [
        "note: the folder seg_pred/ is left out: 10 images that no split holds",
        "note: the folder dev/ is left out: it holds no image",
    ]


def test_train_goes_before_a_name_that_holds_it(tree, own_cache):
    data = load_images(str(tree("train/cat", "train/dog", "train_masks/cat", "test/cat", "test/dog")), val_fraction=0)
    assert parts(data) == (20, 0, 20)
    assert data.remarks == ["note: the folder train_masks/ is left out: 10 images that no split holds"]


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train_a", "train_b"), "two train splits, train_a and train_b: move one"),
        (("train_val", "test"), "the name train_val says both train and validation: rename it"),
        (("train", "val", "valid"), "two validation splits, val and valid"),
        (("eval", "test"), "two test splits, eval and test"),
    ],
)
def test_names_that_could_mean_two_things_are_refused(folders, says, tree, own_cache):
    root = tree(*(f"{folder}/{name}" for folder in folders for name in ("cat", "dog")))
    with pytest.raises(UserError, match=says):
        load_images(str(root))


def test_an_archive_unpacked_into_a_folder_of_its_own_name_is_looked_into(tree, own_cache):
    root = tree(*(f"pets/{split}/{split}/{name}" for split in ("seg_train", "seg_test") for name in ("cat", "dog")))
    data = load_images(str(root), val_fraction=0)
    assert (data.class_names, parts(data)) == (["cat", "dog"], (20, 0, 20))


@pytest.mark.parametrize("empty", [False, True])
def test_a_test_split_may_lack_a_class(empty, tree, own_cache):
    root = tree("train/cat", "train/dog", "train/owl", "test/cat", "test/owl")
    if empty:
        (root / "test" / "dog").mkdir()
    data = load_images(str(root), val_fraction=0)
    assert data.class_names == ["cat", "dog", "owl"]
    assert data.test.arrays.labels.tolist() == [0] * 10 + [2] * 10  # numbered as in train
    assert data.remarks == [
        "note: 1 class has no test image (dog): averages over classes leave them out",
    ]


def test_accents_in_either_form_are_one_class(tree, own_cache):
    root = tree(f"train/{CAFE['NFC']}", "train/dog", "test/dog")
    write_images(root / "test" / CAFE["NFD"], 10)
    data = load_images(str(root), val_fraction=0)
    assert data.class_names == [CAFE["NFC"], "dog"]
    assert sorted(data.test.arrays.labels.tolist()) == [0] * 10 + [1] * 10
    write_images(root / "train" / CAFE["NFD"], 10)
    if len(list((root / "train").iterdir())) == 3:  # not on a disk that takes the two for one, as a Mac's does
        with pytest.raises(UserError, match=r"differ in the form of their accents alone: merge them"):
            load_images(str(root), val_fraction=0)


def test_a_folder_that_was_moved_to_a_system_with_the_other_form_is_the_same(tree, own_cache, tmp_path, capsys):
    import train

    root = tree(CAFE["NFC"], "dog")
    options = ["--dataset", str(root), "--cpu", "--model", "mlp", "--epochs", "1", "--track", "none"]
    fresh_process()
    train.main([*options, "--output-dir", str(tmp_path), "--run-name", "run"])
    (root / CAFE["NFC"]).rename(root / CAFE["NFD"])
    code, out, err = predict(capsys, "--weights", tmp_path / "run" / "best.pth")
    assert (code, err) == (0, "") and " on 4 images" in out
    assert class_numbers(CAFE["NFD"], [CAFE["NFC"], "dog"]) == class_numbers("dog", ["dog", CAFE["NFC"]]) == [0]


def test_classes_that_differ_in_capitals_alone_are_pointed_out(tree, own_cache):
    data = load_images(str(tree("A", "a", "b")), val_fraction=0)
    assert data.class_names == ["A", "a", "b"]
    assert data.remarks == ["note: classes that differ in capital letters alone: A and a"]


def test_the_source_of_a_tree_is_the_same_with_or_without_what_is_no_image(tree):
    root = tree("cat", "dog")
    before = find_source(str(root), None).fingerprint
    (root / "cat" / "notes.txt").touch()
    assert find_source(str(root), None).fingerprint == before  # so nothing is decoded again

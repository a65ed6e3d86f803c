"""Classes of few images: each that can has a test image, and what cannot be measured is said, not counted as 0."""

import json
import shutil

import numpy as np
import pytest

import train
from common.errors import UserError
from data.dataset import load_images
from data.split import stratified_split
from tasks.classification.metrics import classification_metrics
from tasks.classification.report import headline
from tests.conftest import fresh_process, predict, write_images


@pytest.mark.parametrize("seed", range(5))
def test_every_class_of_two_images_or_more_gives_one_and_keeps_one(seed):
    counts = [1, 2, 2, 3, 4, 50]
    labels = np.repeat(np.arange(6), counts)
    hashes = np.arange(len(labels), dtype=np.uint64)
    rest, part = stratified_split(labels, hashes, 0.2, seed, one_of_each=True)
    assert np.bincount(labels[part], minlength=6).tolist() == [0, 1, 1, 1, 1, 10]
    assert np.bincount(labels[rest], minlength=6).tolist() == [1, 1, 1, 2, 3, 40]


def test_copies_of_one_image_count_as_one_image():
    labels = np.repeat([0, 1, 2], [4, 5, 30])
    hashes = np.arange(39, dtype=np.uint64)
    hashes[:4] = 0  # nothing but one image, so no part of it can be tested on
    hashes[4:6], hashes[6:9] = 4, 6  # two images, twice and three times
    rest, part = stratified_split(labels, hashes, 0.1, seed=0, one_of_each=True)
    assert np.bincount(labels[part], minlength=3).tolist() == [0, 2, 3]
    assert not set(hashes[rest]) & set(hashes[part])


def test_a_part_is_not_empty_because_every_class_is_small():
    labels = np.repeat(np.arange(20), [5] * 15 + [4] * 5)
    hashes = np.arange(95, dtype=np.uint64)
    rest, part = stratified_split(labels, hashes, 0.1, seed=0)  # half an image of each
    assert len(part) == 10 and len(rest) == 85
    assert np.bincount(labels[part]).tolist() == [1] * 10


@pytest.fixture
def long_tail(tree, own_cache):
    """Folders of 40, 40, 3, 2 and 1 images."""
    root = tree("a", "b", count=40)
    for name, count in (("c", 3), ("d", 2), ("e", 1)):
        write_images(root / name, count, seed=9)
    return root


def test_a_run_tests_every_class_it_can_and_names_the_others(long_tail, tmp_path, capsys):
    fresh_process()
    options = ["--cpu", "--model", "mlp", "--epochs", "1", "--track", "none", "--output-dir", str(tmp_path / "runs")]
    train.main([*options, "--dataset", str(long_tail), "--run-name", "run"])
    out = capsys.readouterr().out
    test = json.loads((tmp_path / "runs" / "run" / "test.json").read_text())
    assert [test["per_class"][name]["support"] for name in "abcde"] == [8, 8, 1, 1, 0]
    assert test["classes_without_samples"] == ["e"] and test["per_class"]["e"]["f1"] is None
    assert test["f1"]["macro"] == pytest.approx(np.mean([test["per_class"][name]["f1"] for name in "abcd"]))
    before, after = out.split("\ntest accuracy ")
    for said in (before, after):
        assert "warning: 3 classes have fewer than 5 images (c 3, d 2, e 1)" in said
        assert "note: 1 class has no test image (e): averages over classes leave them out" in said
        assert "note: 3 classes have no validation image (c, d, e): the best epoch is chosen without them" in said
    assert "over the 4 of 5 classes that have test images" in after
    code, out, _ = predict(capsys, "--weights", tmp_path / "runs" / "run" / "best.pth")
    assert code == 0 and "no test image (e)" in out


def test_a_data_set_with_enough_of_each_class_has_nothing_to_remark(tree, own_cache):
    assert load_images(str(tree("a", "b", count=20))).remarks == []


def test_validation_images_that_are_copies_are_counted_and_all_of_them_are_said(tree, own_cache):
    root = tree("train/a", "train/b", "val/a", "val/b", "test/a", "test/b")
    for number in range(3):
        shutil.copy(root / f"train/a/{number}.png", root / f"val/a/{number}.png")
    shutil.copy(root / "val/b/7.png", root / "test/b/7.png")
    data = load_images(str(root))
    assert (len(data.val), data.notes["val_images_left_out"], data.notes["test_images_also_in_val"]) == (17, 3, 1)
    assert data.remarks == [
        "note: 3 validation images are also in train, pixel for pixel, and left out",
        "note: 1 test image is also in validation, pixel for pixel",
    ]
    for name in "ab":
        shutil.copytree(root / "train" / name, root / "val" / name, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"all 20 images of the validation split are also in train.*--val-fraction 0.1"):
        load_images(str(root))
    assert len(load_images(str(root), val_fraction=0.1).val) == 2


@pytest.mark.parametrize("classes, top5", [(10, ""), (11, ", top-5 75.00 %")])
def test_top5_is_in_the_headline_of_more_than_ten_classes(classes, top5):
    scores = np.tile(np.arange(classes, 0, -1, dtype=np.float32), (4, 1))
    labels = np.array([0, 4, 2, 9])
    metrics = classification_metrics(labels, scores / scores.sum(1, keepdims=True), list("abcdefghijk"[:classes]))
    assert headline(metrics).startswith(f"test accuracy 25.00 %{top5} on 4 images, loss ")

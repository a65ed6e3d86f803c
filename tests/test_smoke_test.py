"""--smoke-test goes through all of a run on a few images, whatever it is of; the limits hold for each part alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import train
from data import cache
from data.dataset import load_images
from engine.checkpoints import best_weights
from tests.conftest import fresh_process, predict, write_images

CLASSIFIERS = ("test.json", "confusion_matrix.png", "loss.png", "accuracy.png", "examples.png", "best.pth", "args.yaml")


def smoke(place: Path, *options: str) -> Path:
    """The folder of a smoke test."""
    fresh_process()
    before = set(place.glob("*"))
    train.main(["--cpu", "--smoke-test", "--track", "none", "--output-dir", str(place), *map(str, options)])
    (folder,) = set(place.glob("*")) - before
    return folder


def test_the_limits_hold_for_each_part_with_the_classes_in_proportion():
    data = load_images("digits", limit_train=200, limit_val=50, limit_test=100, seed=3)
    whole = load_images("digits", seed=3)
    for name, count in (("train", 200), ("val", 50), ("test", 100)):
        part, all_of_it = getattr(data, name), getattr(whole, name)
        assert len(part) == count and set(part.ids) <= set(all_of_it.ids)
        found, wanted = (np.bincount(one.arrays.labels[one.ids], minlength=10) for one in (part, all_of_it))
        assert (np.abs(found - wanted * count / len(all_of_it)) < 1).all()
    assert np.array_equal(data.test.ids, load_images("digits", limit_test=100, seed=4).test.ids)  # no seed moves them


def test_a_run_is_tested_on_as_many_as_asked_for_and_infer_on_the_same(tmp_path, capsys):
    fresh_process()
    options = "--cpu --model mlp --epochs 1 --track none --limit-train 100 --limit-val 20 --limit-test 30".split()
    train.main([*options, "--output-dir", str(tmp_path), "--run-name", "run"])
    assert "100 train, 20 validation, 30 test images" in capsys.readouterr().out
    test = json.loads((tmp_path / "run" / "test.json").read_text())
    assert test["samples"] == test["data"]["test_images"] == 30
    code, out, _ = predict(capsys, "--weights", tmp_path / "run" / "best.pth")
    again = json.loads((tmp_path / "run" / "best-test" / "test.json").read_text())
    assert code == 0 and "on 30 images" in out and again["confusion_matrix"] == test["confusion_matrix"]


def test_it_goes_through_everything_however_long_the_run_would_be(tree, own_cache, tmp_path, capsys):
    root = tree("train/a", "train/b", "train/c", "test/a", "test/b", "test/c", count=80)
    long = "--model cnn --epochs 300 --batch-size 100 --accumulate 2 --checkpoint-every 5000 --eval-every 50 --ema 0.9"
    folder = smoke(tmp_path / "runs", "--dataset", root, *long.split(), "--val-fraction", "0.01", "--run-name", "mine")
    assert folder.name.startswith("mine-smoke-test-")
    assert all((folder / name).stat().st_size for name in CLASSIFIERS)
    epochs = json.loads((folder / "train.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2] and epochs[-1]["step"] == 4
    assert all(epoch["val_accuracy"] is not None for epoch in epochs)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-4"]
    assert best_weights.load(folder / "best.pth")["class_names"] == ["a", "b", "c"]
    (cached,) = own_cache.glob("*/*/meta.json")
    assert {name: len(split.labels) for name, split in cache.read(cached.parent).splits.items()} == {
        "train": 64,
        "test": 64,
    }
    assert "smoke test: all of it works" in capsys.readouterr().out
    code, out, _ = predict(capsys, "--weights", folder / "best.pth")
    assert code == 0 and "on 16 images" in out


def test_more_classes_than_images_and_folds_and_seeds_are_no_obstacle(tree, own_cache, tmp_path):
    root = tree(*(f"train/{number}" for number in range(70)), *(f"test/{number}" for number in range(70)), count=2)
    options = ["--dataset", root, "--model", "mlp"]
    folder = smoke(tmp_path / "one", *options)
    assert len(best_weights.load(folder / "best.pth")["class_names"]) == 70
    group = smoke(tmp_path / "folds", *options, "--folds", "3", "--run-name", "folds")
    assert {path.name for path in group.iterdir()} >= {"fold-0", "fold-1", "fold-2", "comparison.md", "summary.json"}


@pytest.mark.parametrize("own_pairs", [True, False])
def test_a_model_that_makes_images_is_gone_through_too(own_pairs, tmp_path):
    options = ["--task", "transform", "--model", "separable_map"]
    if own_pairs:
        for half in ("input", "target"):
            write_images(tmp_path / "pairs" / half, 150, mode="L")
        options += ["--dataset", tmp_path / "pairs"]
    else:
        options += ["--transform", "vflip", "--dataset", "digits"]
    folder = smoke(tmp_path / "runs", *options)
    test = json.loads((folder / "test.json").read_text())
    assert (test["data"]["train_images"], test["samples"]) == (16, 10)
    assert all((folder / name).exists() for name in ("examples.png", "loss.png", "accuracy.png", "best.pth"))


def test_the_options_that_it_was_given_are_those_of_its_own_run(tmp_path):
    folder = smoke(tmp_path, "--model", "mlp", "--limit-train", "24", "--lr", "0.01")
    options = yaml.safe_load((folder / "args.yaml").read_text())
    assert (options["smoke_test"], options["limit_train"], options["limit_test"], options["lr"]) == (True, 24, 16, 0.01)
    assert folder.name.startswith("digits-mlp-smoke-test-")

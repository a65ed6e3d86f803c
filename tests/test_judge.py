"""Weights judged on any labelled set: the figures of the run's own test, classes by name, each image in a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn.metrics import f1_score

import compare
import infer
import train
from common.errors import UserError
from experiments.paired import mcnemar
from options.infer import parse_infer
from tasks.classification.intervals import bootstrap_intervals
from tests.conftest import write_images

SEEN = "--cpu --track none --model mlp --model-arg hidden=8 --epochs 1 --batch-size 8".split()


def read(folder: Path) -> tuple[dict, list[dict]]:
    """A report: test.json, and the rows of test.csv."""
    with (folder / "test.csv").open(newline="") as file:
        return json.loads((folder / "test.json").read_text()), list(csv.DictReader(file))


def judge(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        infer.main([*map(str, arguments), "--cpu"])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(images of cats, dogs and owls in a folder with a test split, a run trained on them)."""
    root, runs = tmp_path_factory.mktemp("data") / "pets", tmp_path_factory.mktemp("runs")
    for split, count in (("train", 30), ("test", 12)):
        for seed, name in enumerate(("cat", "dog", "owl")):
            write_images(root / split / name, count, (12, 12), seed=seed + 10 * (split == "test"))
    train.main([*SEEN, "--dataset", str(root), "--output-dir", str(runs), "--run-name", "run"])
    return root, runs / "run"


def test_the_runs_own_test_split_has_the_same_figures_and_table(pets: tuple[Path, Path]) -> None:
    root, run = pets
    judge("--weights", run, "--dataset", root)
    (own, own_rows), (judged, rows) = read(run), read(run / "best-on-pets-test")
    for report in (own, judged):
        for key in ("seconds", "images_per_second", "data"):
            del report[key]
    assert judged == own and rows == own_rows
    assert len(rows) == 36 and [row["true"] for row in rows].count("owl") == 12
    chosen = [float(row[f"probability_{k}"]) for row in rows for k in (1, 2, 3) if row[f"class_{k}"] == row["true"]]
    assert np.allclose([float(row["loss"]) for row in rows], -np.log(chosen), atol=1e-6)
    assert np.isclose(own["loss"], np.mean([float(row["loss"]) for row in rows]), atol=1e-6)
    right = [row["class_1"] == row["true"] for row in rows]
    assert own["accuracy"] == np.mean(right)


def test_classes_are_matched_by_name_whatever_their_order_and_a_missing_one_is_told(
    pets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, run = pets
    for old, new in (("owl", "OWL"), ("cat", "a-cat")):  # numbers 0 and 1 here, 2 and 0 in training
        (tmp_path / "some" / new.replace("a-cat", "Cat")).mkdir(parents=True)
        for path in (root / "test" / old).iterdir():
            (tmp_path / "some" / new.replace("a-cat", "Cat") / path.name).write_bytes(path.read_bytes())
    judge("--weights", run, "--dataset", tmp_path / "some")
    assert "no image of 1 of the model's classes (dog): averages are over the others" in capsys.readouterr().out
    report, rows = read(run / "best-on-some-train")
    expected = {(Path(r["image"]).name, r["true"]): r["class_1"] for r in read(run)[1] if r["true"] != "dog"}
    assert {(Path(row["image"]).name, row["true"]): row["class_1"] for row in rows} == expected
    assert report["classes_without_samples"] == ["dog"] and report["samples"] == 24


def test_a_class_that_the_weights_do_not_know_is_refused_or_ignored(
    pets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, run = pets
    for seed, name in enumerate(("cat", "dogs")):
        write_images(tmp_path / "more" / name, 5, (12, 12), seed=seed)
    arguments = ["--weights", str(run), "--cpu", "--dataset", str(tmp_path / "more")]
    with pytest.raises(SystemExit) as ended:
        infer.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "classes that the model does not know: dogs; did you mean dog?; give --ignore-classes" in error
    assert not (run / "best-on-more-train").exists()
    judge(*arguments, "--ignore-classes")
    report, rows = read(run / "best-on-more-train")
    assert report["samples"] == len(rows) == 5 and report["data"]["images_of_other_classes_left_out"] == 5
    write_images(tmp_path / "none" / "fish", 3, (12, 12))
    write_images(tmp_path / "none" / "bird", 3, (12, 12))
    with pytest.raises(SystemExit):
        infer.main([*arguments[:-1], str(tmp_path / "none"), "--ignore-classes"])
    assert "has no class of the model" in capsys.readouterr().err


def test_photos_of_other_sizes_and_colours_are_prepared_as_the_models_were(
    pets: tuple[Path, Path], tmp_path: Path
) -> None:
    _, run = pets
    for name in ("cat", "dog"):
        write_images(tmp_path / "photos" / "val" / name, 4, (40, 25), mode="L")
    write_images(tmp_path / "photos" / "train" / "cat", 1, (9, 9))
    write_images(tmp_path / "photos" / "train" / "dog", 1, (9, 9))
    judge("--weights", run, "--dataset", tmp_path / "photos")  # validation, as there is no test split
    _, rows = read(run / "best-on-photos-validation")
    files = sorted(map(str, (tmp_path / "photos" / "val").rglob("*.png")))
    assert sorted(row["image"] for row in rows) == files
    output = tmp_path / "answers.json"
    judge("--weights", run, *files, "--output", output)
    by_file = {row["image"]: row["predictions"][0] for row in json.loads(output.read_text())}
    assert all(row["class_1"] == by_file[row["image"]]["class"] for row in rows)
    assert all(np.isclose(float(row["probability_1"]), by_file[row["image"]]["probability"]) for row in rows)


def test_a_table_of_labels_and_parquet_of_words_are_judged_too(pets: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = pets
    flat, lines, images = tmp_path / "flat", ["file,kind,part"], []
    flat.mkdir()
    for row in read(run)[1]:
        name = f"{row['true']}-{Path(row['image']).name}"
        (flat / name).write_bytes(Path(row["image"]).read_bytes())
        lines.append(f"{name},{row['true']},test")
        images.append({"bytes": Path(row["image"]).read_bytes(), "path": name})
    write_images(flat, 1, (12, 12))
    lines.append("0.png,cat,train")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    columns = "--image-column file --label-column kind --split-column part".split()
    judge("--weights", run, "--dataset", flat, "--labels", tmp_path / "labels.csv", *columns)
    assert read(run / "best-on-flat-test")[0]["accuracy"] == read(run)[0]["accuracy"]
    words = [row["true"] for row in read(run)[1]]
    (tmp_path / "words").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table({"image": images, "label": words}), tmp_path / "words" / "holiday.parquet"
    )
    judge("--weights", run, "--dataset", tmp_path / "words")
    assert read(run / "best-on-words-train")[0]["accuracy"] == read(run)[0]["accuracy"]


def test_bad_images_are_refused_by_name_or_left_out(
    pets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, run = pets
    write_images(tmp_path / "bad" / "cat", 3, (12, 12))
    write_images(tmp_path / "bad" / "dog", 3, (12, 12))
    (tmp_path / "bad" / "dog" / "broken.png").write_bytes(b"no image")
    arguments = ["--weights", str(run), "--cpu", "--dataset", str(tmp_path / "bad")]
    with pytest.raises(SystemExit) as ended:
        infer.main(arguments)
    assert ended.value.code == 2 and "broken.png: not an image" in capsys.readouterr().err
    judge(*arguments, "--skip-bad-images")
    assert read(run / "best-on-bad-train")[0]["samples"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--split test", "--split: of use with --dataset alone"),
        ("--dataset mnist --explain gradcam", "--dataset and --explain are two questions"),
        ("--dataset mnist photo.png", "--dataset and images are two questions"),
        ("--dataset mnist --split-column part", "--split-column is of the table --labels"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_infer(["--weights", "best.pth", *options.split()])


def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    pets: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    root, run = pets
    with pytest.raises(SystemExit) as ended:
        infer.main(["--weights", str(run), "--cpu", "--dataset", str(root), "--split", "validation"])
    assert ended.value.code == 2
    assert "has no such split, but train, test" in capsys.readouterr().err


def test_intervals_are_those_of_resampled_images() -> None:
    random = np.random.default_rng(5)
    true = random.integers(0, 4, 300)
    said = np.where(random.random(300) < 0.7, true, random.integers(0, 4, 300))
    confusion = np.zeros((5, 5), dtype=int)  # a class without samples too
    np.add.at(confusion, (true, said), 1)
    found = bootstrap_intervals(confusion)
    accuracies, f1s = [], []
    for _ in range(1500):
        rows = random.integers(0, 300, 300)
        accuracies.append((true[rows] == said[rows]).mean())
        f1s.append(f1_score(true[rows], said[rows], labels=np.unique(true[rows]), average="macro"))
    for name, values in (("accuracy", accuracies), ("macro_f1", f1s)):
        low, high = np.percentile(values, [2.5, 97.5])
        assert abs(found[name][0] - low) < 0.012 and abs(found[name][1] - high) < 0.012
    assert bootstrap_intervals(np.diag([3, 4])) == {"accuracy": [1.0, 1.0], "macro_f1": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("only_one", "only_other", "p"), [(10, 2, 0.03857421875), (5, 5, 1.0), (0, 0, 1.0), (6, 0, 0.03125)]
)
def test_mcnemars_test_is_the_exact_binomial_one(only_one: int, only_other: int, p: float) -> None:
    one = np.array([True] * only_one + [False] * only_other + [True, False] * 7)
    other = np.array([False] * only_one + [True] * only_other + [True, False] * 7)
    assert mcnemar(one, other) == (only_one, only_other, pytest.approx(p, abs=1e-12))


def test_two_weights_on_one_set_are_compared_image_by_image(
    pets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, run = pets
    other = run.parent / "other"
    train.main([*SEEN, "--seed", "1", "--dataset", str(root), "--output-dir", str(run.parent), "--run-name", "other"])
    for folder in (run, other):
        judge("--weights", folder, "--dataset", root)
    right = [np.array([row["class_1"] == row["true"] for row in read(folder)[1]]) for folder in (run, other)]
    alone, other_alone, p = mcnemar(*right)
    expected = f"alone is right on {alone}, {other / 'best-on-pets-test'} alone on {other_alone}: p = {p:.2g}"
    capsys.readouterr()
    compare.main([str(folder / "best-on-pets-test") for folder in (run, other)])
    assert expected in capsys.readouterr().out
    compare.main([str(run), str(other), "--output-dir", str(tmp_path)])
    assert "(McNemar's exact test)" in capsys.readouterr().out
    assert "(McNemar's exact test)" in (tmp_path / "comparison.md").read_text()

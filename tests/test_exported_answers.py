"""infer.py with an exported file: it says of files, and of a labelled set, what the weights that it is of say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import export
import infer
import train
from tests.conftest import write_images

OPTIONS = "--cpu --track none --model mlp --model-arg hidden=8 --epochs 2 --batch-size 8 --calibrate".split()


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(images of cats, dogs and owls, a run trained on them, the folder of its exported files)."""
    root, runs = tmp_path_factory.mktemp("data") / "pets", tmp_path_factory.mktemp("runs")
    for split, count in (("train", 30), ("test", 8)):
        for seed, name in enumerate(("cat", "dog", "owl")):
            write_images(root / split / name, count, (12, 12), seed=seed + 10 * (split == "test"))
    train.main([*OPTIONS, "--dataset", str(root), "--output-dir", str(runs), "--run-name", "run"])
    files = runs / "files"
    with pytest.raises(SystemExit) as ended:
        export.main(["--weights", str(runs / "run"), "--format", "onnx,torchscript", "--output", str(files)])
    assert ended.value.code == 0
    return root, runs / "run", files


def answers(weights: Path, output: Path, *arguments: object, code: int = 0) -> dict[str, dict]:
    """What infer.py says of each image."""
    with pytest.raises(SystemExit) as ended:
        infer.main(["--weights", str(weights), "--cpu", "--output", str(output), *map(str, arguments)])
    assert ended.value.code == code
    return {row["image"]: row for row in json.loads(output.read_text())}


@pytest.mark.parametrize("suffix", ["onnx", "torchscript"])
def test_files_are_answered_as_by_the_weights(pets: tuple[Path, Path, Path], suffix: str, tmp_path: Path) -> None:
    root, run, files = pets
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [root / "test", tmp_path / "broken.png"]
    expected = answers(run, tmp_path / "own.json", *images, "--reject", 0.5, code=1)
    found = answers(files / f"model.{suffix}", tmp_path / "exported.json", *images, "--reject", 0.5, code=1)
    assert list(found) == list(expected) and len(found) == 24
    for name, row in found.items():
        assert row["answer"] == expected[name]["answer"]
        for one, other in zip(row["predictions"], expected[name]["predictions"], strict=True):
            assert one["class"] == other["class"] and abs(one["probability"] - other["probability"]) < 1e-5


def test_a_labelled_set_is_judged_as_by_the_weights(
    pets: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, run, files = pets
    for name in ("dog", "cat", "fish"):
        write_images(tmp_path / "more" / name, 6, (12, 12), seed=50)
    for weights in (run, files / "model.onnx"):
        for more in (["--dataset", root], ["--dataset", tmp_path / "more", "--ignore-classes"]):
            with pytest.raises(SystemExit) as ended:
                infer.main(["--weights", str(weights), "--cpu", *map(str, more)])
            assert ended.value.code == 0
        assert "classes that the model does not know are ignored: fish (6 images)" in capsys.readouterr().out
    for name in ("pets-test", "more-train"):
        folders = run / f"best-on-{name}", files / f"model-on-{name}"
        own, exported = (json.loads((folder / "test.json").read_text()) for folder in folders)
        for key in ("accuracy", "confusion_matrix", "samples", "intervals", "classes_without_samples"):
            assert own[key] == exported[key]
        assert abs(own["loss"] - exported["loss"]) < 1e-5
        assert np.isclose(own["calibration"]["error"], exported["calibration"]["error"], atol=1e-5)
        tables = [list(csv.DictReader((folder / "test.csv").open(newline=""))) for folder in folders]
        one, other = ({row["image"]: (row["true"], row["class_1"]) for row in table} for table in tables)
        assert one == other and (folders[1] / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--explain gradcam photo.png", "--explain: of no use with an exported file"),
        ("--tta flip photo.png", "--tta: of no use with an exported file"),
        ("", "has no test split of its own: name images, or give --dataset"),
    ],
)
def test_what_an_exported_file_cannot_do_is_refused_in_a_line(
    pets: tuple[Path, Path, Path], options: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        infer.main(["--weights", str(pets[2] / "model.onnx"), *options.split()])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

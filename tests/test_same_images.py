"""What was trained on some images is tested, resumed and explained on the same ones, wherever they lie, or refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import train
from engine.checkpoints import best_weights
from tests.conftest import changed, fresh_process, predict, refusal, write_images

SPLITS = ("train", "validation", "test")


@pytest.fixture
def pets(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes in three splits, inside the working directory."""
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for seed, split in enumerate(SPLITS):
        for name in ("cat", "dog"):
            write_images(tmp_path / "here" / "pets" / split / name, 8, seed=seed)
    return tmp_path / "here" / "pets"


@pytest.fixture
def fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Train in this process: (exit code, standard output, standard error); the run is tmp_path/runs/NAME."""

    def run(*options: str, epochs: int = 1, name: str = "run") -> tuple[int, str, str]:
        fresh_process()
        argv = ["--cpu", "--track", "none", "--model", "mlp", "--batch-size", "8", "--epochs", str(epochs)]
        try:
            train.main([*argv, "--output-dir", str(tmp_path / "runs"), "--run-name", name, *options])
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def another_image(folder: Path) -> None:
    write_images(folder / "cat", 1, seed=99)


def figures(folder: Path) -> dict:
    report = json.loads((folder / "test.json").read_text())
    return {name: report[name] for name in ("accuracy", "loss", "confusion_matrix", "data")}


def test_infer_reports_on_the_runs_own_test_images_or_says_that_they_changed(pets, fit, tmp_path, capsys):
    fit("--dataset", "pets")
    run = tmp_path / "runs" / "run"
    another_image(pets / "train")
    code, _, err = predict(capsys, "--weights", run / "best.pth")
    assert code == 0 and err.startswith(f"warning: the train images of {pets} have changed since ")
    assert figures(run / "best-test") == figures(run)
    another_image(pets / "test")
    for more in ((), ("--explain", "occlusion")):
        line = refusal(capsys, "--weights", run / "best.pth", *more)
        assert f"the train and test images of {pets} have changed since {run / 'best.pth'} was trained" in line


def test_weights_of_an_earlier_version_are_reported_on_with_a_warning(pets, fit, tmp_path, capsys):
    fit("--dataset", "pets")
    run = tmp_path / "runs" / "run"
    content = best_weights.load(run / "best.pth")
    del content["fingerprints"]
    torch.save(content, run / "old.pth")
    code, _, err = predict(capsys, "--weights", run / "old.pth")
    assert (code, err.count("\n")) == (0, 1) and "it does not say which images its run was tested on" in err
    assert figures(run / "old-test") == figures(run)


def test_another_working_directory_finds_the_same_images(pets, fit, tmp_path, monkeypatch, capsys):
    assert fit("--dataset", "pets")[0] == 0
    run = tmp_path / "runs" / "run"
    there = tmp_path / "there"
    for name in ("cat", "dog"):
        write_images(there / "pets" / name, 20, seed=50)
    monkeypatch.chdir(there)
    assert yaml.safe_load((run / "args.yaml").read_text())["dataset"] == str(pets)
    assert predict(capsys, "--weights", run / "best.pth")[0] == 0
    assert figures(run / "best-test") == figures(run)
    code, _, err = fit("--dataset", "pets", "--resume", "auto", epochs=2)
    assert code == 2 and f"other images than those of --dataset {there / 'pets'}: give --dataset {pets} again" in err
    assert fit("--dataset", str(pets), "--resume", "auto", epochs=2)[0] == 0


def test_images_that_were_moved_are_found_by_data_dir(pets, fit, tmp_path, capsys):
    fit("--dataset", "./pets")
    run = tmp_path / "runs" / "run"
    moved = tmp_path / "elsewhere" / "pets"
    moved.parent.mkdir()
    shutil.move(pets, moved)
    assert f"--dataset {pets}: there is no such folder" in refusal(capsys, "--weights", run / "best.pth")
    renamed = moved.with_name("animals")
    for data_dir in (moved.parent, renamed):
        if data_dir == renamed:
            moved.rename(renamed)
        assert predict(capsys, "--weights", run / "best.pth", "--data-dir", data_dir)[0] == 0
        assert figures(run / "best-test") == figures(run)
    code, out, _ = fit("--dataset", str(renamed), "--resume", "auto", epochs=2)
    assert code == 0 and "resuming" in out  # the images count, not where they lie


@pytest.mark.parametrize("split", SPLITS)
def test_a_run_goes_on_only_with_all_of_its_images(split, pets, fit):
    fit("--dataset", "pets")
    another_image(pets / split)
    code, _, err = fit("--dataset", "pets", "--resume", "auto", epochs=2)
    assert (code, err.count("\n")) == (2, 1)
    assert f"the {split} images of --dataset {pets} have changed since" in err


def test_a_checkpoint_that_knows_its_training_images_alone_goes_on(pets, fit, tmp_path):
    fit("--dataset", "pets")
    (place,) = (tmp_path / "runs" / "run" / "checkpoints").iterdir()
    state, manifest = json.loads((place / "state.json").read_text()), json.loads((place / "manifest.json").read_text())
    assert state.pop("fingerprints")["train"] == state["data"]
    (place / "state.json").write_text(json.dumps(state))
    manifest["sha256"]["state.json"] = hashlib.sha256((place / "state.json").read_bytes()).hexdigest()
    (place / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = fit("--dataset", "pets", "--resume", "auto", epochs=2)
    assert code == 0 and "resuming" in out


def test_weights_of_several_runs_are_benched_on_the_same_test_images_only(pets, fit, tmp_path, capsys):
    import bench

    learn = ("--dataset", "pets", "--task", "transform", "--transform", "vflip", "--model", "separable_map")
    assert fit(*learn)[0] == 0
    best = tmp_path / "runs" / "run" / "best.pth"
    other = {**best_weights.load(best)["fingerprints"], "test": "another"}
    fresh_process()
    with pytest.raises(SystemExit) as ended:
        bench.main(["--cpu", "--weights", str(best), str(changed(best, tmp_path / "other.pth", fingerprints=other))])
    assert ended.value.code == 2
    assert f"the test images of {pets} have changed since {tmp_path / 'other.pth'} was" in capsys.readouterr().err


def test_several_runs_go_on_only_with_the_images_of_those_that_are_done(pets, fit):
    seeds = ("--dataset", "pets", "--seeds", "0,1")
    assert fit(*seeds)[0] == 0
    assert fit(*seeds, "--resume", "auto")[0] == 0
    another_image(pets / "test")
    code, _, err = fit(*seeds, "--resume", "auto")
    assert (code, err.count("\n")) == (2, 1)
    assert f"seed-0 was done with other images, those of --dataset {pets} as they were: the test images" in err

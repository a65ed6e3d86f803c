"""Processes that were started for different runs are refused by all of them, in one line that names what differs."""

from pathlib import Path

import pytest

from tests.conftest import write_images
from tests.driver import Fault, train
from tests.test_failures import errors

OPTIONS = (
    "--cpu --track none --model mlp --model-arg hidden=8 --mixed-precision no --limit-train 64 --batch-size 32 "
    "--epochs 2 --run-name run --output-dir"
).split()


def refusal(folder: Path, *more: str, first: list[str], second: list[str]) -> str:
    """The one line with which two processes end that are given different options; nothing is written."""
    fault = Fault(more_options={0: first, 1: second})
    codes, printed = train([*OPTIONS, str(folder / "runs"), *more], 2, fault)
    assert codes == [2, 2], printed
    assert not (folder / "runs" / "run").exists()
    assert len(errors(printed)) == 1 and "Traceback" not in printed, printed
    return errors(printed)[0]


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (["--seed", "1"], "--seed is 0 on process 0 and 1 on process 1"),
        (["--label-smoothing", "0.5"], "--label-smoothing is 0.0 on process 0 and 0.5 on process 1"),
        (["--val-fraction", "0.3"], "--val-fraction is None on process 0 and 0.3 on process 1"),
        (["--seeds", "0,1"], "--seeds is None on process 0 and [0, 1] on process 1"),
        (["--resume", "auto"], "--resume is None on process 0 and auto on process 1"),
    ],
)
def test_other_options_are_named(tmp_path: Path, second: list[str], named: str) -> None:
    assert named in refusal(tmp_path, first=[], second=second)


def pets(folder: Path) -> Path:
    """Images in train/, validation/ and test/ of two classes."""
    for seed, (split, count) in enumerate((("train", 40), ("validation", 8), ("test", 8))):
        for name in ("cat", "dog"):
            write_images(folder / split / name, count, seed=seed)
    return folder


@pytest.mark.parametrize(("split", "named"), [("train", "train"), ("validation", "validation"), ("test", "test")])
def test_other_images_are_named_by_their_split(tmp_path: Path, own_cache: Path, split: str, named: str) -> None:
    one, other = pets(tmp_path / "one" / "pets"), pets(tmp_path / "other" / "pets")
    (other / split / "cat" / "0.png").unlink()
    line = refusal(tmp_path, first=["--dataset", str(one)], second=["--dataset", str(other)])
    assert f"the processes have other images: the {named} part is" in line


def test_the_same_images_in_another_place_are_the_same_run(tmp_path: Path, own_cache: Path) -> None:
    places = [pets(tmp_path / name / "pets") for name in ("one", "other")]
    fault = Fault(more_options={rank: ["--dataset", str(place)] for rank, place in enumerate(places)}, report=True)
    codes, printed = train([*OPTIONS, str(tmp_path / "runs")], 2, fault)
    assert codes == [0, 0], printed


def test_other_pretrained_weights_are_named(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        assert train([*OPTIONS, str(tmp_path / seed), "--seed", seed])[0] == [0]
    weights = [["--pretrained", str(tmp_path / seed / "run" / "best.pth")] for seed in ("0", "1")]
    assert "--pretrained is a file of SHA-256" in refusal(tmp_path, first=weights[0], second=weights[1])

"""Machines without a common disk train, report and resume: the first writes, and what one has the others get."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.checkpoints import best_weights
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --model-arg hidden=8 --mixed-precision no --limit-train 64 --batch-size 32 "
    "--checkpoint-every 1 --run-name run --output-dir"
).split()


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """The disks of two machines, 0/ and 1/."""
    for rank in "01":
        (tmp_path / "disks" / rank).mkdir(parents=True)
    return tmp_path / "disks"


def run(disks: Path, epochs: int, *more: str, shard: bool = False, **fault: object) -> str:
    """What two processes print that train to the end."""
    argv = [*OPTIONS, str(disks.parent), "--epochs", str(epochs), *more]
    codes, printed = train(argv, 2, Fault(disks=disks, shard=shard, report=True, **fault))
    assert codes == [0, 0], printed
    return printed


def epochs_in(folder: Path) -> list[int]:
    return [epoch["epoch"] for epoch in json.loads((folder / "train.json").read_text())["epochs"]]


@pytest.mark.parametrize("shard", [False, True])
def test_the_first_machine_has_the_report_and_both_go_on_from_its_checkpoint(disks: Path, shard: bool) -> None:
    run(disks, 2, shard=shard)
    first = disks / "0" / "runs" / "run"
    assert json.loads((first / "test.json").read_text())["samples"] == 359
    assert not list((disks / "1").iterdir())
    assert "at step 4 of 6" in run(disks, 3, "--resume", "auto", shard=shard)
    assert epochs_in(first) == [1, 2, 3]


def test_a_checkpoint_that_only_the_second_machine_has_is_sent_to_the_first(disks: Path) -> None:
    """As when the machines are numbered the other way round at a restart."""
    constant = ["--schedule", "constant", "--warmup", "0"]
    run(disks, 2, *constant)
    (disks / "0").rename(disks / "other")
    (disks / "1").rename(disks / "0")
    (disks / "other").rename(disks / "1")
    before = best_weights.load(disks / "1" / "runs" / "run" / "best.pth")
    fault = {"kill_after": 5}
    codes, printed = train(
        [*OPTIONS, str(disks.parent), "--epochs", "3", *constant, "--resume", "auto"], 2, Fault(disks=disks, **fault)
    )
    assert codes == [-9, -9] and "at step 4 of 6" in printed, printed
    folder = disks / "0" / "runs" / "run"
    assert best_weights.load(folder / "best.pth")["step"] == before["step"]
    assert "at step 5 of 6" in run(disks, 3, *constant, "--resume", "auto")
    assert epochs_in(folder) == [1, 2, 3]
    straight = disks.parent / "straight"
    assert train([*OPTIONS, str(straight), "--epochs", "3", *constant], 2)[0] == [0, 0]
    one, other = (load_file(place / "checkpoints/step-6/model.safetensors") for place in (folder, straight / "run"))
    assert all(one[name].equal(other[name]) for name in one)

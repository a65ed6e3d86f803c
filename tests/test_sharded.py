"""A run whose model is divided among the processes (FSDP2) is the same run, and leaves the same files.

There is no GPU here: PyTorch's fully_shard divides the model over processes on the CPU, see `driver.shard_on_cpus`.
"""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from common.errors import UserError
from engine.checkpoints import best_weights
from engine.runtime import sharding
from infer import infer
from options.infer import parse_infer
from tests.driver import Fault, train

# 20 steps without batch norm; 33 rows do not divide by 2; two micro-batches a step, as only the last one communicates.
PLAIN = (
    "--cpu --track none --model mlp --model-arg hidden=33 --mixed-precision no --limit-train 640 --batch-size 64 "
    "--epochs 2 --accumulate 2 --augment flip,crop=1,cutout=2 --clip-grad 1 --checkpoint-every 4 --keep 9 "
    "--run-name run"
).split()
# 12 steps with everything that could carry state: batch norm, dropout, moving average, mixing.
STATEFUL = (
    "--cpu --track none --limit-train 128 --batch-size 32 --epochs 3 --model-arg width=8 dropout=0.2 --ema 0.9 "
    "--augment flip,crop=1,mixup --clip-grad 1 --mixed-precision no --checkpoint-every 3 --keep 9 --run-name run"
).split()
# 8 steps with batch norm of each process's own images, and dropout.
NORMED = (
    "--cpu --track none --limit-train 128 --batch-size 32 --epochs 2 --model-arg width=8 dropout=0.2 --no-sync-bn "
    "--mixed-precision no --run-name run"
).split()


def run(folder: Path, options: list[str], processes: int = 2, **fault: object) -> tuple[list[int], str]:
    """A run on 2 sharded processes, or on 1 or more plain ones with `shard=False`."""
    folder.mkdir(exist_ok=True)
    how = Fault(**{"shard": True, "ledger": folder / "ledger", **fault})
    return train([*options, "--output-dir", str(folder)], processes, how)


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by file and name."""
    files = sorted((folder / f"run/checkpoints/step-{step}").glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def difference(one: Path, other: Path, step: int) -> float:
    """The largest between two checkpoints: of any weight, and of a tensor of the optimizer's as a whole.

    RMSprop's momentum holds values of 40 that divide by next to nothing: there it is a share.
    """
    ours, theirs = tensors(one, step), tensors(other, step)
    assert ours.keys() == theirs.keys()

    def apart(name: str) -> float:
        gap = ours[name] - theirs[name]
        if name.startswith("optimizer/"):
            return gap.norm().item() / max(1, theirs[name].norm().item())
        return gap.abs().max().item()

    return max(map(apart, ours))


def samples(folder: Path, processes: int) -> dict[int, set[str]]:
    steps: dict[int, set[str]] = {}
    for rank in range(processes):
        for line in (folder / f"ledger.{rank}").read_text().splitlines():
            step, *ids = line.split()
            steps.setdefault(int(step), set()).update(ids)
    return steps


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without batch norm on one process."""
    folder = tmp_path_factory.mktemp("plain")
    codes, printed = run(folder, PLAIN, 1, shard=False)
    assert codes == [0], printed
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with everything that could carry state, sharded and without a fault, to its test report."""
    folder = tmp_path_factory.mktemp("sharded")
    codes, printed = run(folder, STATEFUL, report=True)
    assert codes == [0, 0], printed
    return folder


def test_sharded_and_plain_see_the_same_samples_and_reach_the_same_weights(plain: Path, tmp_path: Path) -> None:
    codes, printed = run(tmp_path, PLAIN)
    assert codes == [0, 0], printed
    assert samples(tmp_path, 2) == samples(plain, 1)
    assert len(samples(plain, 1)) == 20
    assert difference(tmp_path, plain, 20) < 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "nadam"])
def test_other_optimizers_come_to_the_same_too(tmp_path: Path, optimizer: str) -> None:
    options = [*PLAIN, "--optimizer", optimizer, "--epochs", "1"]
    assert run(tmp_path / "sharded", options)[0] == [0, 0]
    assert run(tmp_path / "plain", options, 1, shard=False)[0] == [0]
    assert difference(tmp_path / "sharded", tmp_path / "plain", 8) < 1e-6


@pytest.mark.parametrize(
    ("more", "holds"),
    [
        ("--ema 0.9", "ema"),  # by the average, which is sharded too, is evaluated
        ("--accumulate 2 --clip-grad 0.1", "model"),
        ("--mixed-precision bf16 --ema 0.9", "ema"),
        ("--grad-checkpointing", "model"),
    ],
)
def test_each_option_comes_to_what_it_does_on_two_plain_processes(tmp_path: Path, more: str, holds: str) -> None:
    options = [*NORMED, *more.split()]
    for name, shard in (("sharded", True), ("plain", False)):
        codes, printed = run(tmp_path / name, options, shard=shard)
        assert codes == [0, 0], printed
    assert holds in {name.split("/")[0] for name in tensors(tmp_path / "sharded", 8)}
    assert difference(tmp_path / "sharded", tmp_path / "plain", 8) < 1e-5
    ours, theirs = (best_weights.load(tmp_path / name / "run/best.pth") for name in ("sharded", "plain"))
    assert ours["mixed_precision"] == theirs["mixed_precision"] and ours["step"] == theirs["step"]
    evaluated = [
        [epoch["val_loss"] for epoch in json.loads((tmp_path / name / "run/train.json").read_text())["epochs"]]
        for name in ("sharded", "plain")
    ]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-3)


@pytest.mark.parametrize("killed_after", [7, 8])  # within an epoch, and at the end of one
def test_killed_and_resumed_equals_uninterrupted(sharded: Path, tmp_path: Path, killed_after: int) -> None:
    assert run(tmp_path, STATEFUL, kill_after=killed_after)[0] == [-signal.SIGKILL] * 2
    codes, printed = run(tmp_path, [*STATEFUL, "--resume", "auto"])
    assert codes == [0, 0], printed
    assert "at step 6 of 12" in printed
    assert difference(tmp_path, sharded, 12) == 0
    assert {name.split("/")[0] for name in tensors(tmp_path, 12)} == {"model", "ema", "optimizer"}


def test_a_signal_in_evaluation_saves_and_the_rest_follows_as_if_nothing_had_been(
    sharded: Path, tmp_path: Path
) -> None:
    codes, printed = run(tmp_path, STATEFUL, signal_in_evaluation=(8, signal.SIGTERM))
    assert codes == [143, 143], printed
    assert "stopped at step 8 of 12, saved" in printed
    assert run(tmp_path, [*STATEFUL, "--resume", "auto"])[0] == [0, 0]
    assert difference(tmp_path, sharded, 12) == 0


@pytest.mark.parametrize("sharded_first", [True, False])
def test_a_checkpoint_saved_sharded_resumes_plain_and_the_reverse(
    plain: Path, tmp_path: Path, sharded_first: bool
) -> None:
    modes = {True: (2, {"shard": True}), False: (1, {"shard": False})}
    processes, how = modes[sharded_first]
    assert run(tmp_path, PLAIN, processes, kill_after=13, **how)[0] == [-signal.SIGKILL] * processes
    processes, how = modes[not sharded_first]
    codes, printed = run(tmp_path, [*PLAIN, "--resume", "auto"], processes, **how)
    assert codes == [0] * processes, printed
    assert "at step 12 of 20" in printed
    assert difference(tmp_path, plain, 20) < 1e-6


def test_the_kept_weights_are_plain_and_infer_finds_the_same_with_them(sharded: Path) -> None:
    best = sharded / "run/best.pth"
    content = best_weights.load(best)
    assert {type(value) for value in content["weights"].values()} == {torch.Tensor}
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate refuses a second precision in one process
    assert infer(parse_infer(["--cpu", "--weights", str(best)])) == 0
    found, expected = (json.loads((best.parent / name).read_text()) for name in ("best-test/test.json", "test.json"))
    assert found["accuracy"] == expected["accuracy"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_nan_on_one_process_stops_all_at_that_step(tmp_path: Path) -> None:
    codes, printed = run(tmp_path, STATEFUL, nan_at=(5, 1))
    assert codes == [1, 1]
    assert "not finite at step 5 (process 1, samples [" in printed


def test_compilation_with_sharding_is_refused_in_words(tmp_path: Path) -> None:
    codes, printed = run(tmp_path, [*PLAIN, "--compile"])
    assert codes == [2, 2]
    assert "--compile does not go with sharding" in printed


def test_version_1_is_refused_in_words() -> None:
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1)))
    with pytest.raises(UserError, match="fsdp_version 1 is not supported"):
        sharding.set_up(accelerator)

"""Killed and resumed on a GPU equals never stopped, bit for bit; what is not finite changes no weight there either."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.driver import Fault, train
from tests.test_finite_guard import train_into_a_late_fault

# 4 steps an epoch, 3 epochs; everything that could carry state is on: batch norm, dropout, moving average, mixing.
OPTIONS = (
    "--track none --limit-train 128 --batch-size 32 --epochs 3 --model-arg width=8 dropout=0.2 --ema 0.9 --clip-grad 1 "
    "--augment flip,crop=1,mixup --deterministic --keep 99 --run-name run --output-dir"
).split()
LIMIT = 300  # seconds after which a run counts as hanging


def final_state(folder: Path) -> dict[str, bytes]:
    place = folder / "run" / "checkpoints" / "step-12"
    return {file.name: file.read_bytes() for file in sorted(place.glob("*.safetensors"))}


def state_of(folder: Path, step: int) -> dict:
    return json.loads((folder / "run" / "checkpoints" / f"step-{step}" / "state.json").read_text())


@pytest.mark.parametrize("how", ["no", "bf16", "fp16", "compiled"])
def test_killed_and_resumed_equals_uninterrupted(
    there: list[str], tmp_path: Path, how: str, request: pytest.FixtureRequest
) -> None:
    if how != "no":
        request.getfixturevalue("cuda")
    precise = ["--compile"] if how == "compiled" else ["--mixed-precision", how]
    precise += ["--checkpoint-every", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    codes, printed = train([*there, *precise, *OPTIONS, str(whole)], timeout=LIMIT)
    assert codes == [0], printed
    options = [*there, *precise, *OPTIONS, str(killed)]
    assert train(options, fault=Fault(kill_after=7), timeout=LIMIT)[0] == [-signal.SIGKILL]
    codes, printed = train([*options, "--resume", "auto"], timeout=LIMIT)
    assert codes == [0] and "at step 6 of 12" in printed, printed
    assert set(final_state(whole)) == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    assert final_state(killed) == final_state(whole)
    assert state_of(killed, 12)["scaler"] == state_of(whole, 12)["scaler"]
    assert (state_of(whole, 12)["scaler"] is not None) == (how == "fp16")


def test_a_gradient_that_overflows_in_fp16_skips_its_step_and_halves_the_scale(
    cuda: torch.device, tmp_path: Path
) -> None:
    options = ["--mixed-precision", "fp16", "--checkpoint-every", "1", *OPTIONS, str(tmp_path)]
    codes, printed = train(options, fault=Fault(overflow_at=8), timeout=LIMIT)
    assert codes == [0], printed
    before, after = state_of(tmp_path, 8)["scaler"]["scale"], state_of(tmp_path, 9)["scaler"]["scale"]
    assert after == before / 2
    checkpoints = tmp_path / "run" / "checkpoints"
    own = [load_file(checkpoints / f"step-{step}" / "model.safetensors") for step in (8, 9, 10)]
    trained = [name for name in own[0] if "running" not in name and "batches_tracked" not in name]
    assert all(torch.equal(own[0][name], own[1][name]) for name in trained), "the step was not skipped"
    assert not all(torch.equal(own[1][name], own[2][name]) for name in trained), "the next step was skipped as well"


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_fault_that_is_found_late_leaves_the_weights_of_the_step_before_it(device: torch.device, name: str) -> None:
    train_into_a_late_fault(name, cpu=device.type == "cpu")


def test_nan_ends_the_run_at_the_next_look_and_the_last_checkpoint_is_of_before(
    device: torch.device, there: list[str], tmp_path: Path
) -> None:
    options = [*there, "--checkpoint-every", "3", *OPTIONS, str(tmp_path)]
    codes, printed = train(options, fault=Fault(nan_at=(7, 0)), timeout=LIMIT)
    assert codes == [1]
    assert "not finite at step 7 (process 0, samples [" in printed
    saved = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["step-3", "step-6"], "a look comes before each save"

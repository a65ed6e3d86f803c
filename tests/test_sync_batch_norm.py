"""With --sync-bn several processes normalise by the statistics of all their images, as one process would."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from models.layers.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm
from tests.driver import train

# Batch norm, a skip connection, and 8 images for each of two processes, for which --sync-bn is the default.
OPTIONS = (
    "--cpu --track none --model cnn --model-arg width=8 --mixed-precision no --limit-train 160 --batch-size 16 "
    "--epochs 2 --run-name run --output-dir"
).split()


def state(folder: Path, processes: int, *more: str, says: str = "") -> dict[str, torch.Tensor]:
    codes, printed = train([*OPTIONS, str(folder), *more], processes)
    assert codes == [0] * processes and says in printed, printed
    return {
        name: value.double() for name, value in load_file(folder / "run/checkpoints/step-20/model.safetensors").items()
    }


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest over the tensors, as a share of each tensor's largest value."""
    return max(((one[name] - other[name]).abs().max() / one[name].abs().max()).item() for name in one)


def test_weights_and_running_statistics_of_two_and_four_processes_are_those_of_one(tmp_path: Path) -> None:
    one = state(tmp_path / "1", 1)
    says = "(on by default below 16 images a process; --no-sync-bn turns it off)"
    assert {name.rpartition(".")[2] for name in one} >= {"running_mean", "running_var", "num_batches_tracked"}
    other_seed = difference(one, state(tmp_path / "seed", 1, "--seed", "1"))
    alone = difference(one, state(tmp_path / "alone", 2, "--no-sync-bn"))
    for processes in (2, 4):
        together = difference(one, state(tmp_path / str(processes), processes, says=says))
        assert together < 1e-3 * min(alone, other_seed), "other statistics, or other samples, differ a thousandfold"


def test_by_default_only_small_batches_are_normalised_together(tmp_path: Path) -> None:
    batch = "--batch-size", "32", "--epochs", "4"  # 16 images a process
    on = state(tmp_path / "on", 2, *batch, "--sync-bn", says="batch norm over the images of all processes (--sync-bn)")
    off = state(tmp_path / "off", 2, *batch, "--no-sync-bn", says="batch norm over each process's own images")
    default = state(tmp_path / "default", 2, *batch, says="(--sync-bn: over the images of all)")
    assert all(torch.equal(default[name], off[name]) for name in default)
    assert not all(torch.equal(default[name], on[name]) for name in default)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.BatchNorm2d(6, affine=False), BatchNormAct2d(6)])
def test_one_process_computes_what_batch_norm_does_under_the_same_names(norm: nn.Module) -> None:
    images = torch.randn(8, 6) if isinstance(norm, nn.BatchNorm1d) else torch.randn(8, 6, 5, 5)
    model = nn.Sequential(norm)
    synchronized = synchronize_batch_norm(copy.deepcopy(model), torch.device("cpu"))
    assert isinstance(synchronized[0], SyncBatchNorm)
    for training in (True, False):
        assert torch.equal(synchronized.train(training)(images), model.train(training)(images))
        ours, plain = synchronized.state_dict(), model.state_dict()
        assert list(ours) == list(plain) and all(torch.equal(ours[name], plain[name]) for name in plain)

"""With --grad-checkpointing a run is the same, bit for bit, and keeps less in memory."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import models
from common.errors import UserError
from models import grad_checkpointing
from models.factory import create_model
from tests.driver import Fault, train

# Batch norm, dropout, a moving average, clipping; 6 steps.
OPTIONS = (
    "--cpu --track none --model cnn --model-arg width=8 dropout=0.2 --image-size 16 --limit-train 96 --batch-size 32 "
    "--epochs 2 --ema 0.9 --clip-grad 1 --checkpoint-every 1 --keep 9 --mixed-precision no --run-name run --output-dir"
).split()
TIMM = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"drop_rate": 0.1, "drop_path_rate": 0.2, "depth": 3},
    "convnext_atto": {"drop_path_rate": 0.2},
    "efficientnet_b0": {"drop_path_rate": 0.2},
}


def run(folder: Path, *more: str, processes: int = 1, code: int = 0, **fault: object) -> str:
    codes, printed = train([*OPTIONS, str(folder), *more], processes, Fault(**fault))
    assert codes == [code] * processes, printed
    return printed


def tensors(folder: Path, step: int = 6) -> dict[str, Tensor]:
    files = sorted((folder / f"run/checkpoints/step-{step}").glob("*.safetensors"))
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def losses(folder: Path) -> list[float]:
    return [epoch["train_loss"] for epoch in json.loads((folder / "run/train.json").read_text())["epochs"]]


@pytest.mark.parametrize(
    "processes, more, fault",
    [
        pytest.param(1, "--accumulate 2", {}, marks=pytest.mark.slow),
        pytest.param(1, "--mixed-precision bf16", {}, marks=pytest.mark.slow),
        pytest.param(2, "--no-sync-bn", {}, marks=pytest.mark.slow),
        (2, "--sync-bn --accumulate 2", {}),
        pytest.param(2, "", {"shard": True}, marks=pytest.mark.slow),
    ],
)
def test_a_run_has_the_same_weights_statistics_and_losses(
    tmp_path: Path, processes: int, more: str, fault: dict
) -> None:
    for name, checkpointing in (("without", []), ("with", ["--grad-checkpointing"])):
        run(tmp_path / name, *more.split(), *checkpointing, processes=processes, **fault)
    before, after = tensors(tmp_path / "without"), tensors(tmp_path / "with")
    assert before.keys() == after.keys() and any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses(tmp_path / "without") == losses(tmp_path / "with")


def test_it_may_be_switched_on_at_a_resume_and_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "resumed", code=-9, kill_after=3)
    run(tmp_path / "resumed", "--resume", "auto", "--grad-checkpointing")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def trained(model: nn.Module, side: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of two steps, and the state after them."""
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for step in range(2):
        torch.manual_seed(step)
        loss = nn.functional.cross_entropy(model(images), torch.arange(4))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, model.state_dict()


@pytest.mark.parametrize("name", [*models.MODELS, *(models.TIMM + name for name in TIMM)])
def test_every_model_trains_as_without_it(name: str) -> None:
    arguments = TIMM.get(name.removeprefix(models.TIMM), {})
    model = create_model(name, input_shape=(3, 32, 32), num_classes=4, **arguments).train()
    less = copy.deepcopy(model)
    grad_checkpointing.check(less, torch.zeros(2, 3, 32, 32))
    grad_checkpointing.checkpoint_activations(less)
    (losses, state), (expected_losses, expected) = trained(less, 32), trained(model, 32)
    assert losses == expected_losses and state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """What a forward pass keeps for the backward pass, without the weights."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(images)
    assert outputs.requires_grad
    return sum(size for address, size in kept.items() if address not in weights)


@pytest.mark.parametrize(
    "name, arguments", [("cnn", {"width": 8}), ("fcn", {}), ("timm/resnet26", {}), ("timm/vit_tiny_patch16_224", {})]
)
def test_less_than_half_is_kept(name: str, arguments: dict) -> None:
    model = create_model(name, input_shape=(3, 64, 64), num_classes=4, **arguments).train()
    images = torch.randn(4, 3, 64, 64)
    before = kept_bytes(model, images)
    grad_checkpointing.checkpoint_activations(model)
    assert kept_bytes(model, images) < before / 2


class Counting(nn.Module):
    """A layer that follows its batches in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.relu() * 2


def test_a_layer_that_would_take_in_each_batch_twice_is_refused() -> None:
    model = nn.Sequential(nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)), Counting(), *[nn.Linear(3, 3)] * 5))
    with pytest.raises(UserError, match="a layer of this model would take in each batch twice"):
        grad_checkpointing.check(model, torch.zeros(2, 3))


@pytest.mark.parametrize(
    "more, says",
    [
        ("--model timm/dla46_c --image-size 64", "timm has none for this model"),
        ("--model separable_map --task transform --transform invert", "this model has no sequence of layers to do it"),
        ("--model mlp --compile", "--grad-checkpointing does not go with --compile: leave one of them out"),
    ],
)
def test_where_it_cannot_be_done_it_is_refused_in_one_line(tmp_path: Path, more: str, says: str) -> None:
    options = ["--cpu", "--track", "none", "--limit-train", "96", "--output-dir", str(tmp_path), "--run-name", "run"]
    codes, printed = train([*options, "--grad-checkpointing", *more.split()])
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert codes == [2] and says in error
    assert not (tmp_path / "run").exists()

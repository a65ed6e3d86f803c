"""Muon is what it says: orthogonalised momentum on weights of a fixed length inside the net, Adam elsewhere."""

import pytest
import torch
from torch import nn

from common.errors import UserError
from engine.optim import muon
from engine.optim.factory import build_optimizer
from engine.optim.muon import LONG, orthogonalize
from engine.optim.schedule import set_lr
from tests.rounding import assert_rounds_like


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


@pytest.mark.parametrize("shape", [(8, 27), (27, 8), (16, 16), (64, 5), (512, 2048), (2100, 520)])
def test_orthogonalised_keeps_the_directions_and_levels_the_lengths(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    u, s, vh = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    s = torch.linspace(0.2, 1, len(s), dtype=torch.float64)
    levelled = u.T @ orthogonalize(u @ torch.diag(s) @ vh, rounds=5) @ vh.T
    assert (levelled - torch.diag(levelled.diag())).abs().max() < 1e-9  # of float64: a million times its rounding
    assert levelled.diag().min() > 0.6 and levelled.diag().max() < 1.3


@pytest.mark.parametrize("shape", [(6, 9), (512, 2048)])
def test_rounds_are_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(matrix, rounds=3), u @ torch.diag(s) @ vh, rtol=1e-5, atol=1e-5)


def test_a_long_matrix_in_bf16_comes_out_as_in_float64_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 128
    monkeypatch.setattr(muon, "MANY", rows)  # as CPUs without bfloat16 take 10 s for 512
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, rows, generator=generator))[0] for size in (rows, LONG * rows))
    matrix = u @ torch.diag(torch.logspace(0, -4, rows)) @ v.T
    plain = matrix.bfloat16() / matrix.bfloat16().norm()
    for _ in range(3):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain
    # By way of the Gram matrix it rounds twice as much.
    assert_rounds_like(orthogonalize(matrix.bfloat16()), plain, orthogonalize(matrix.double()), 2)


def test_steps_are_those_of_a_plain_reference() -> None:
    model, reference = net().double(), net().double()
    optimizer = build_optimizer(model, "muon", lr=0.1, momentum=0.6, weight_decay=0.01, head_lr=0.02, bias_lr=0.3)
    optimizer.precision = torch.float64
    inner = [reference[0].weight, reference[3].weight]
    head, biases = [reference[5].weight], [p for p in reference.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": head, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}], betas=(0.85, 0.95)
    )
    momentum = [torch.zeros_like(p) for p in inner]
    for step in range(4):
        lr = 0.1 / (step + 1)
        inputs = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for module in (model, reference):
            module.zero_grad()
            module(inputs).square().mean().backward()
        set_lr(optimizer, lr)
        optimizer.step()
        adam.param_groups[0]["lr"], adam.param_groups[1]["lr"] = lr * 0.02, lr * 0.3
        adam.step()
        with torch.no_grad():
            for weight, average in zip(inner, momentum, strict=True):
                average.copy_(0.6 * average + weight.grad)
                update = orthogonalize((weight.grad + 0.6 * average).flatten(1)).view_as(weight)
                weight.copy_(weight / weight.norm() * len(weight) ** 0.5 - lr * update)
    for (name, parameter), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-9, msg=name)


def test_one_step_turns_a_weight_by_about_the_learning_rate() -> None:
    model = net()
    optimizer = build_optimizer(model, "muon", lr=0.2, momentum=0.6, weight_decay=0.0)
    model(torch.randn(6, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    before = model[0].weight.detach().clone()
    optimizer.step()
    length = before.norm()
    assert length == pytest.approx(8**0.5, rel=0.2)
    assert 0.1 < (model[0].weight * (length / 8**0.5) - before).norm() / length < 0.4


def test_muon_refuses_sharded_weights() -> None:
    with pytest.raises(UserError, match="muon needs whole weights"):
        build_optimizer(net(), "muon", lr=0.1, momentum=0.6, weight_decay=0.0, sharded=True)


@pytest.mark.parametrize(("pays", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_iteration_is_in_bf16_only_where_the_hardware_is_faster_in_it(monkeypatch, pays, dtype) -> None:
    monkeypatch.setattr("engine.optim.muon.bf16_pays", lambda device: pays)
    model, reference = net(), net()
    by_choice, as_told = (
        build_optimizer(of, "muon", lr=0.1, momentum=0.6, weight_decay=0.0) for of in (model, reference)
    )
    as_told.precision = dtype
    for of, optimizer in ((model, by_choice), (reference, as_told)):
        of(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), reference.parameters()))

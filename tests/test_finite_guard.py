"""Where looking at each step would make a GPU wait, a fault found steps later has still changed no weight."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from engine.finite_guard import FiniteGuard
from engine.optim.factory import build_optimizer

LOOK_EVERY, FAULT, LOOKED = 10, 13, 20


def train_into_a_late_fault(name: str, cpu: bool) -> None:
    """Train with NaN at step FAULT, and see that the guard ends it at step LOOKED with the weights before the fault."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=cpu)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = build_optimizer(model, name, lr=0.01, momentum=0.6, weight_decay=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    guard = FiniteGuard(accelerator, optimizer, lambda step: torch.arange(3).numpy() + step)
    if cpu:
        assert guard.look_every == 1, "a CPU waits anyway, so that it looks at every step"
        guard.look_every, guard.defers = LOOK_EVERY, True  # as on a GPU
    assert (guard.look_every, guard.defers) == (LOOK_EVERY, True)

    before = None
    with pytest.raises(SystemExit) as ended:
        for step in range(LOOKED + 1):
            if step == FAULT:
                before = [parameter.detach().clone() for parameter in model.parameters()]
            outputs = model(torch.randn(3, 6).to(accelerator.device))
            loss = outputs.square().mean() * (float("nan") if step == FAULT else 1)
            accelerator.backward(loss)
            guard.observe(loss)
            guard.check(step)
            optimizer.step()
            optimizer.zero_grad()
    assert ended.value.code == 1 and step == LOOKED
    for parameter, expected in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_fault_that_is_found_late_leaves_the_weights_of_the_step_before_it(name: str, capsys) -> None:
    train_into_a_late_fault(name, cpu=True)
    assert f"not finite at step {FAULT} (process 0, samples [13, 14, 15])" in capsys.readouterr().err


def test_muon_told_that_nothing_is_wrong_takes_the_same_step() -> None:
    models = []
    for found_inf in (None, torch.zeros(())):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
        optimizer = build_optimizer(model, "muon", lr=0.1, momentum=0.6, weight_decay=0.0)
        optimizer.found_inf = found_inf
        model(torch.randn(3, 6)).square().mean().backward()
        optimizer.step()
        models.append(model)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)

"""The learning rate is PyTorch's schedulers' as a pure function; optimizers, decay and average do what they say."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from engine.optim.ema import EMA
from engine.optim.factory import build_optimizer
from engine.optim.schedule import lr_at, set_lr
from options.train import parse_train
from options.training import OPTIMIZERS, SCHEDULES

TOTAL, PEAK = 40, 0.3

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def ours(schedule, warmup=0.0, total=TOTAL):
    return [lr_at(step, total, peak=PEAK, schedule=schedule, warmup=warmup) for step in range(total)]


def theirs(scheduler_class, steps, **options):
    """The learning rates of `steps` steps under one of PyTorch's schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = scheduler_class(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_pytorchs():
    assert ours("cosine") == pytest.approx(theirs(lr_scheduler.CosineAnnealingLR, TOTAL, T_max=TOTAL))


def test_linear_is_pytorchs():
    options = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": TOTAL}
    assert ours("linear") == pytest.approx(theirs(lr_scheduler.LinearLR, TOTAL, **options))


@pytest.mark.parametrize("schedule", ("cosine", "linear", "constant"))
def test_the_warm_up_is_pytorchs_and_then_comes_the_schedule(schedule):
    warm = 10
    options = {"start_factor": 1 / (warm + 1), "total_iters": warm}
    expected = theirs(lr_scheduler.LinearLR, warm, **options) + ours(schedule, total=TOTAL - warm)
    assert ours(schedule, warmup=0.25) == pytest.approx(expected)


@pytest.mark.parametrize("warm", (4, 12, 20))
def test_onecycle_is_pytorchs_without_its_two_lowest_steps(warm):
    """The first and last step of OneCycleLR hardly learn: those between them are ours."""
    steps = TOTAL + 2
    options = {"max_lr": PEAK, "total_steps": steps, "pct_start": (warm + 2) / steps}
    reference = theirs(lr_scheduler.OneCycleLR, steps - 1, **options)
    assert ours("onecycle", warmup=warm / TOTAL) == pytest.approx(reference[1:])
    assert reference[0] == pytest.approx(PEAK / 25)
    assert max(ours("onecycle", warmup=warm / TOTAL)) == PEAK


@pytest.mark.parametrize("total", (1, 2, 7, 1000))
@pytest.mark.parametrize("warmup", (0.0, 0.05, 0.3, 1.0))
@each_schedule
def test_the_rate_rises_then_falls_and_is_above_0_and_never_above_the_peak(schedule, warmup, total):
    rates = ours(schedule, warmup, total)
    warm = int(warmup * total)
    assert all(0 < rate <= PEAK for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: warm + 1]))
    assert all(a >= b for a, b in pairwise(rates[warm:]))


@each_schedule
def test_the_rate_does_not_depend_on_what_was_asked_before(schedule):
    forward = ours(schedule, 0.3)
    backward = [lr_at(s, TOTAL, peak=PEAK, schedule=schedule, warmup=0.3) for s in reversed(range(TOTAL))]
    assert forward == backward[::-1]


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.0), nn.Linear(4 * 36, 3)
    )


def small_batch(size=16):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(size) % 3
    return torch.randn(size, 1, 8, 8, generator=generator) + labels[:, None, None, None], labels


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss_at_its_default_rate(name):
    model, (images, labels) = small_net(), small_batch()
    args = parse_train(["--optimizer", name])
    names = ("lr", "weight_decay", "momentum", "head_lr", "bias_lr")
    optimizer = build_optimizer(model, name, **{key: getattr(args, key) for key in names})
    losses = []
    for _ in range(30):  # radam holds back in its first ones
        loss = nn.functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_matrices_and_kernels_decay(name):
    """With gradients of 0 decay alone moves a parameter."""
    model = small_net()
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer = build_optimizer(model, name, lr=1e-4, momentum=0.0, weight_decay=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    for parameter in held:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for (key, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        if old.ndim == 1:
            assert torch.equal(new, old), key
        elif name == "muon" and key == "0.weight":
            continue  # kept at a length of its own, see tests/test_muon.py
        else:
            assert new.norm() < old.norm(), key


def test_decay_is_lr_times_decay_times_weight():
    for name in ("adamw", "sgd", "nadam", "radam"):
        model = nn.Linear(3, 2)
        before = model.weight.detach().clone()
        optimizer = build_optimizer(model, name, lr=0.1, momentum=0.0, weight_decay=0.05)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.05))


def test_momentum_is_nesterovs():
    """v' = m v + g; w' = w - lr (g + m v')."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = build_optimizer(model, "sgd", lr=0.5, momentum=0.9, weight_decay=0.0)
    weight, velocity = 0.0, 0.0
    for gradient in (1.0, -0.5, 2.0):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        weight -= 0.5 * (gradient + 0.9 * velocity)
        assert model.weight.item() == pytest.approx(weight)


def test_set_lr_reaches_every_group():
    optimizer = build_optimizer(small_net(), "adamw", lr=1.0, momentum=0.9, weight_decay=0.1)
    set_lr(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125] * 3


def test_set_lr_is_times_the_factor_of_the_last_layer_and_of_biases():
    model = small_net()
    optimizer = build_optimizer(model, "sgd", lr=1.0, momentum=0.0, weight_decay=0.0, head_lr=0.5, bias_lr=4.0)
    set_lr(optimizer, 0.125)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {
        "0.weight": 0.125,
        "0.bias": 0.5,
        "1.weight": 0.5,
        "1.bias": 0.5,
        "5.weight": 0.0625,
        "5.bias": 0.5,
    }


def test_ema_equals_a_plain_loop():
    model, (images, _) = small_net(), small_batch()
    ema, decay = EMA(model, 0.5), 0.5
    reference = {name: value.clone().double() for name, value in model.state_dict().items()}
    parameters = {name for name, _ in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    for step in range(1, 16):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
            model(images + step)  # moves batch norm's statistics
        ema.update(model, step)
        now = min(decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            reference[name] = now * reference[name] + (1 - now) * value if name in parameters else value.double()
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), reference[name], rtol=1e-5, atol=1e-5)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_ema_leaves_the_model_alone():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    ema = EMA(model, 0.9)
    ema.update(small_net(), 1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())

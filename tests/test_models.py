"""Every model learns at every image size that it promises and can be exported; what does not fit is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from models import MODELS
from models.factory import create_model
from models.skip_mlp import SkipBlock
from models.summary import as_text, summarize
from tests.rounding import assert_rounds_like, in_float64, longest_sum, times_of_sums

# (channels, height, width)
SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar": (3, 32, 32),
    "imagenette": (3, 64, 64),
    "oblong": (3, 20, 44),
}
SMALLEST = {"whitened_cnn": 18, "small_cnn": 14}  # the side in pixels that a model needs
TIMM_NAMES = ("timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224")

each_model = pytest.mark.parametrize("name", MODELS)


def batch(shape, num_classes, size=4):
    """Images and labels that are the same each time."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (size,), generator=generator)
    return torch.randn(size, *shape, generator=generator), labels


def check_that_it_learns(model, shape, num_classes):
    """The logits have the right shape, every parameter gets a gradient, and one small step lowers the loss."""
    images, labels = batch(shape, num_classes)
    torch.manual_seed(1)  # of dropout
    logits = model.train()(images)
    assert logits.shape == (len(images), num_classes)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    squares = sum(p.grad.square().sum() for p in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 1e-3 / squares * parameter.grad  # along the slope, so the loss should fall by 0.001
        torch.manual_seed(1)
        assert F.cross_entropy(model(images), labels) < loss


@pytest.mark.parametrize("num_classes", (2, 100))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@each_model
def test_every_model_learns_at_every_image_size(name, shape, num_classes):
    if min(shape[1:]) < SMALLEST.get(name, 0):
        with pytest.raises(ValueError, match=f"at least {SMALLEST[name]}x{SMALLEST[name]} pixels"):
            create_model(name, input_shape=shape, num_classes=num_classes)
        return
    torch.manual_seed(0)
    model = create_model(name, input_shape=shape, num_classes=num_classes)
    check_that_it_learns(model, shape, num_classes)


@pytest.mark.parametrize("shape", ((1, 32, 32), (3, 64, 64)), ids=("grey", "colour"))
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_timm_models_learn_at_small_sizes_and_any_number_of_channels(name, shape):
    torch.manual_seed(0)
    model = create_model(name, input_shape=shape, num_classes=7, drop_rate=0.0)
    check_that_it_learns(model, shape, 7)


def test_the_listed_timm_names_are_those_of_timm():
    import timm

    assert models.timm_names() == sorted(timm.list_models())


@pytest.mark.parametrize(
    ("name", "suggestion"),
    (
        ("cnnn", "did you mean cnn"),
        ("timm/resnet19", "timm/resnet18"),
        ("skipmlp", "skip_mlp"),
        ("timm/", "see --list"),
    ),
)
def test_unknown_names_are_refused_with_the_nearest_ones(name, suggestion):
    with pytest.raises(ValueError, match=f"unknown model '{name}'") as caught:
        create_model(name, input_shape=(3, 32, 32), num_classes=10)
    assert suggestion in str(caught.value)


def test_model_args_reach_the_constructor():
    def count(name, shape, **model_args):
        model = create_model(name, input_shape=shape, num_classes=10, **model_args)
        return sum(p.numel() for p in model.parameters())

    two_layers = (64 * 64 + 64) + (64 * 64 + 64) + (64 * 10 + 10)
    assert count("mlp", (1, 8, 8), hidden=[64, 64]) == two_layers
    assert count("mlp", (1, 8, 8), hidden=20) == (64 * 20 + 20) + (20 * 10 + 10)
    assert count("mlp", (1, 8, 8), hidden=[]) == 64 * 10 + 10  # logistic regression
    block = (64 * 30 + 30) + (30 * 30 + 30) + 64 * 30  # two layers and the projection
    assert count("skip_mlp", (1, 8, 8), widths=30) == block + (30 * 10 + 10)
    stem = 3 * 9 * 8 + 2 * 8
    stages = (8 * 9 * 16 + 2 * 16) + (16 * 9 * 16 + 2 * 16) + (16 * 9 * 32 + 2 * 32) + (32 * 9 * 32 + 2 * 32)
    assert count("cnn", (3, 16, 16), width=8) == stem + stages + (32 * 10 + 10)
    assert create_model("cnn", input_shape=(1, 8, 8), num_classes=2, dropout=0.3).head[2].p == 0.3
    assert create_model(TIMM_NAMES[0], input_shape=(1, 32, 32), num_classes=2, drop_rate=0.3).drop_rate == 0.3


@pytest.mark.parametrize(
    ("name", "model_args", "words"),
    (
        ("mlp", {"hidden": [64, 0]}, "positive"),
        ("skip_mlp", {"widths": []}, "positive"),
        ("cnn", {"width": 0}, "positive"),
        ("cnn", {"depth": 3}, "depth"),
        ("whitened_cnn", {"width": (64, 0, 8)}, "width"),
        ("whitened_cnn", {"depth": 0}, "depth"),
        ("fcn", {"channels": [8, 0]}, "channels must hold a positive number"),
        ("fcn", {"channels": [8, 8], "dropout": [0.1]}, "dropout holds 1 values for 2 layers"),
        ("fcn", {"pool": 4}, "nothing is left of the image after layer 3"),
    ),
)
def test_impossible_model_args_are_refused_in_words(name, model_args, words):
    with pytest.raises((ValueError, TypeError), match=words):
        create_model(name, input_shape=(3, 32, 32), num_classes=10, **model_args)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "parameters"),
    (
        ("small_cnn", (3, 32, 32), 100, 266_416),  # as the report on it says
        ("wide_cnn", (3, 128, 128), 100, 16_904_548),  # as the report on it says
        ("fashion_cnn", (1, 28, 28), 10, 18_432 + 288 + 36_864 + 2 * 160 + 803_072 + 32_896 + 2 * 384 + 1_290),
        ("fcn", (3, 32, 32), 10, 1_728 + 73_728 + 294_912 + 589_824 + 2 * 704 + 2_570),
    ),
)
def test_a_reported_architecture_has_exactly_the_parameters(name, shape, num_classes, parameters):
    model = create_model(name, input_shape=shape, num_classes=num_classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert summarize(model, shape)["parameters"] == parameters


def test_wide_cnn_is_batch_norm_relu_and_max_pool_in_that_order_bit_for_bit():
    def results(model):
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
        logits = model(images)
        logits.square().sum().backward()
        return logits, images.grad, *(parameter.grad for parameter in model.parameters())

    model = create_model("wide_cnn", input_shape=(3, 16, 16), num_classes=10)
    stated = copy.deepcopy(model)
    for place, layer in enumerate(model.convolutions):
        if isinstance(layer, nn.ReLU):
            stated.convolutions[place - 1], stated.convolutions[place] = nn.ReLU(), nn.MaxPool2d(2)
    assert [type(layer) for layer in stated.convolutions[:4]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(results(model), results(stated), strict=True))


def test_fcn_takes_each_layers_own_kernel_stride_and_padding():
    model = create_model(
        "fcn",
        input_shape=(3, 32, 32),
        num_classes=7,
        channels=[8, 16, 24],
        kernel_size=[5, 3, 1],
        stride=[2, 1, 1],
        padding=[2, 0, 0],
        pool=[1, 2, 1],
        dropout=[0, 0.1, 0.2],
    )
    layers = summarize(model, (3, 32, 32))["layers"]
    convolutions = [tuple(layer["output"]) for layer in layers if layer["type"] == "Conv2d"]
    assert convolutions == [(8, 16, 16), (16, 14, 14), (24, 7, 7), (7, 7, 7)]
    assert [layer["type"] for layer in layers].count("Dropout") == 2


@pytest.mark.parametrize("size", ((7, 7), (7, 64), (64, 4)))
def test_cnn_refuses_images_under_8_pixels(size):
    with pytest.raises(ValueError, match=r"at least 8x8 pixels, got \d+x\d+: give --image-size 8"):
        create_model("cnn", input_shape=(3, *size), num_classes=10)


def test_whitened_cnn_whitens_the_patches_of_what_it_starts_from_and_trains_that_no_more():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 3, 20, 20, generator=generator).cumsum(3).cumsum(2) / 20  # neighbours look alike
    model = create_model("whitened_cnn", input_shape=(3, 20, 20), num_classes=10)
    model.init_from(images)
    filtered = in_float64(model.whiten, images).transpose(0, 1).flatten(1)
    (white, negative), count = filtered.chunk(2), filtered.shape[1]
    torch.testing.assert_close(white, -negative)
    spread = white @ white.T / count
    # The kernels alone are rounded to float32: by 6e-8, of a variance up to 1,000 times the smallest and 5e-4 more.
    assert (spread - torch.diag(spread.diag())).abs().max() < 1e-4
    assert spread.diag().max() < 1.001 and spread.diag().min() > 0.5  # less than 1 where there was next to nothing
    assert not model.whiten.weight.requires_grad


def test_whitened_cnn_hands_its_first_channels_through_at_first():
    model = create_model("whitened_cnn", input_shape=(3, 20, 20), num_classes=10)
    widen = model.stages[0].widen[0]
    images = torch.randn(2, 24, 9, 9)
    torch.testing.assert_close(widen(images)[:, :24], images)


def test_skip_mlp_projects_exactly_where_widths_differ():
    model = create_model("skip_mlp", input_shape=(1, 8, 8), num_classes=10, widths=[64, 64, 32, 32, 48])
    skips = [module.skip for module in model.modules() if isinstance(module, SkipBlock)]
    assert [type(skip) for skip in skips] == [nn.Identity, nn.Identity, nn.Linear, nn.Identity, nn.Linear]
    assert [tuple(skip.weight.shape) for skip in skips if isinstance(skip, nn.Linear)] == [(32, 64), (48, 32)]


def test_skip_mlp_equals_the_formula():
    """h' = relu(S h + W2 relu(W1 h + b1) + b2), S the projection, or nothing where the width stays."""
    torch.manual_seed(0)
    model = create_model("skip_mlp", input_shape=(1, 4, 6), num_classes=5, widths=[24, 10]).double()
    images = torch.randn(3, 1, 4, 6, dtype=torch.float64)
    w = model.state_dict()

    def inner(h, block):
        hidden = (h @ w[f"layers.{block}.inner.0.weight"].T + w[f"layers.{block}.inner.0.bias"]).clamp(min=0)
        return hidden @ w[f"layers.{block}.inner.3.weight"].T + w[f"layers.{block}.inner.3.bias"]

    h = images.reshape(3, 24)
    h = (h + inner(h, 1)).clamp(min=0)
    h = (h @ w["layers.3.skip.weight"].T + inner(h, 3)).clamp(min=0)
    expected = h @ w["layers.5.weight"].T + w["layers.5.bias"]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("name", (*MODELS, *TIMM_NAMES))
def test_channels_last_gives_the_same_output(name):
    torch.manual_seed(0)
    model = create_model(name, input_shape=(3, 32, 32), num_classes=10).eval()
    images, _ = batch((3, 32, 32), 10)
    with torch.no_grad():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        last = model(images.contiguous(memory_format=torch.channels_last))
    assert_rounds_like(last, plain, in_float64(model, images), times_of_sums(longest_sum(model)))


@pytest.mark.filterwarnings("ignore")  # jit is deprecated, and still asked for
@pytest.mark.parametrize("way", ("script", "trace", "export"))
@each_model
def test_exported_models_compute_the_same(name, way):
    torch.manual_seed(0)
    model = create_model(name, input_shape=(3, 20, 20), num_classes=10).eval()
    images, _ = batch((3, 20, 20), 10)
    if way == "script":
        exported = torch.jit.script(model)
    elif way == "trace":
        exported = torch.jit.trace(model, images)
    else:
        exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        found, expected = exported(images), model(images)
    assert_rounds_like(found, expected, in_float64(model, images), times_of_sums(longest_sum(model)))


def test_the_summary_counts_parameters_and_multiply_accumulates():
    model = create_model("cnn", input_shape=(3, 8, 8), num_classes=10, width=8)
    summary = summarize(model, (3, 8, 8))
    # Pixels times kernel times channels in times channels out: the stem, then a stage that halves after its first.
    assert summary["macs"] == 64 * 9 * 3 * 8 + 64 * 9 * 8 * 16 + 16 * 9 * 16 * 16 + 16 * 10
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(layer["parameters"] for layer in summary["layers"]) == summary["parameters"]
    assert summary["layers"][0] == {"name": "stem.0", "type": "Conv2d", "output": [8, 8, 8], "parameters": 216}
    totals = "cnn: 3,922 parameters, 0.1 M MACs an image"
    assert as_text(summary, "cnn", verbose=False) == totals
    assert as_text(summary, "cnn", verbose=True).endswith(f"\n{totals}")
    assert model.training and all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_the_summary_is_short_for_a_long_model_that_hands_parameters_around():
    model = create_model("timm/cait_xxs24_224", input_shape=(3, 32, 32), num_classes=10)
    lines = as_text(summarize(model, (3, 32, 32)), "cait", verbose=True).splitlines()
    assert len(lines) == 41
    assert lines[-1].startswith("cait: 11,")

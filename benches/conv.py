"""Bench `conv`: convolution by hand against nn.Conv2d, forward and backward, on the layers of byhand_cnn."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benches.budget import Budget
from benches.forward import WORDS
from benches.report import Row, Section
from benches.step import autocast
from benches.timing import calls_for, interleave, warm_up
from common.errors import UserError
from models.conv2d import Conv2d
from models.factory import create_model
from options.bench import MeasureOptions


def measure(
    args: MeasureOptions, device: torch.device, precision: str, batch_size: int, budget: Budget
) -> Iterator[Section]:
    """A section for each layer, in fp32 and in the options' precision ("auto" resolved)."""
    layers = _layers((args.channels, args.image_size, args.image_size))
    precisions = dict.fromkeys(("no", precision))
    shares = budget.divide([1] * len(layers) * len(precisions))
    for used in precisions:
        for index, (layer, shape) in enumerate(layers):
            inputs = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))
            inputs = inputs.to(device, memory_format=torch.channels_last)
            inputs.requires_grad_(index > 0)  # an image needs no gradient
            yield _section(layer, inputs, used, args.rounds, next(shares))


def refuse_early(args: MeasureOptions) -> None:
    """Raise UserError for images that byhand_cnn does not suit."""
    try:
        _layers((args.channels, args.image_size, args.image_size))
    except ValueError as error:
        raise UserError(f"--what conv: {error}; give a larger --image-size, or leave conv out") from error


def _layers(input_shape: tuple[int, int, int]) -> list[tuple[nn.Conv2d, tuple[int, int, int]]]:
    """The convolutions of byhand_cnn with the shape (C, H, W) of what each is given."""
    model = create_model("byhand_cnn", input_shape=input_shape, num_classes=10)
    layers = [module for module in model.modules() if isinstance(module, Conv2d)]
    return [
        (layer, (layer.in_channels, *(side >> index for side in input_shape[1:]))) for index, layer in enumerate(layers)
    ]


def _section(layer: nn.Conv2d, inputs: Tensor, precision: str, rounds: int, budget: Budget) -> Section:
    """Time one layer; both convolutions have the same weights."""
    native = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, bias=layer.bias is not None
    )
    native.load_state_dict(layer.state_dict())
    rows, calls, reference = {}, {}, None
    for name, module in (("nn.Conv2d", native), ("by hand", layer)):
        call, gradient = _pass(module.to(inputs.device, memory_format=torch.channels_last), inputs, precision)
        calls[name] = call, calls_for(warm_up(call, inputs.device, budget))
        difference = None if reference is None else ((gradient - reference).abs().max() / reference.abs().max()).item()
        reference = gradient if reference is None else reference
        rows[name] = Row(name, len(inputs), difference=difference)
    for name, timing in interleave(calls, rounds, inputs.device, budget).items():
        rows[name].timing = timing
    ratio = rows["by hand"].timing.median / rows["nn.Conv2d"].timing.median
    size = "x".join(map(str, inputs.shape[1:]))
    title = f"conv: {size} to {layer.out_channels} channels, 3x3, {len(inputs)} images a call, {WORDS[precision]}"
    facts = {"batch_size": len(inputs), "compared": "the kernels' gradients", "seconds_over_native": ratio}
    return Section("conv", title, list(rows.values()), [f"by hand takes {ratio:.2f} times as long"], facts)


def _pass(module: nn.Conv2d, inputs: Tensor, precision: str) -> tuple[Callable[[], None], Tensor]:
    """(forward and backward in one call, the gradient of the kernels that it gives)."""

    def both_ways() -> None:
        module.weight.grad = inputs.grad = None
        with autocast(inputs.device, precision):
            outputs = module(inputs)
        outputs.backward(torch.ones_like(outputs))

    both_ways()
    return both_ways, module.weight.grad

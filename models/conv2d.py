"""A convolution written by hand: slices, one concatenation, one matrix product."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import winograd
from models.layers.packed_conv import PackedConv2d
from models.layers.swap import become
from models.layers.training_on_cpus import trains_on_cpu


def _windows(images: Tensor, kernel: tuple[int, int], padding: tuple[int, ...]) -> Tensor:
    """(B, H, W, C) -> (B, H', W', kernel pixels * C): what lies under a kernel that moves by one pixel."""
    padded = F.pad(images, (0, 0, *padding))
    height = padded.shape[1] - kernel[0] + 1
    # Under one row of the kernel lie neighbours in memory, which are copied together.
    rows = (padded[:, row : row + height].unfold(2, kernel[1], 1) for row in range(kernel[0]))
    return torch.cat([row.transpose(3, 4).flatten(3) for row in rows], 3)


def _product(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Patches (B, H', W', kernel pixels * C) times the kernels (O, C, rows, columns) as a matrix: (B, H', W', O)."""
    return F.linear(patches.flatten(0, 2), weight.permute(0, 2, 3, 1).flatten(1), bias).unflatten(0, patches.shape[:3])


class _Slide(torch.autograd.Function):
    """A convolution that moves by one pixel, (B, H, W, C) -> (B, H', W', O).

    Its gradient to the images is another one: of the outputs' gradient, with the kernels turned by half a circle. That
    takes less time than PyTorch's way through the gradients of slices.
    """

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        windows = _windows(images, weight.shape[2:], padding)
        ctx.save_for_backward(images, weight, windows)
        ctx.padding = padding
        return _product(windows, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, windows = ctx.saved_tensors
        kernel = rows, columns = weight.shape[2:]
        left, right, top, bottom = ctx.padding
        of_images = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            rest = (columns - 1 - left, columns - 1 - right, rows - 1 - top, rows - 1 - bottom)
            turned = weight.flip(2, 3).transpose(0, 1)
            of_images = _product(_windows(grad, kernel, rest), turned, None)
        flat = grad.flatten(0, 2)
        if ctx.needs_input_grad[1]:
            if torch.is_grad_enabled():  # to be differentiated once more, which leads to the images
                windows = _windows(images, kernel, ctx.padding)
            of_weight = (windows.flatten(0, 2).T @ flat).T.unflatten(1, (rows, columns, -1)).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = (flat.new_ones(1, len(flat)) @ flat)[0]
        return of_images, of_weight, of_bias, None


class Conv2d(nn.Conv2d):
    """nn.Conv2d with a forward pass of its own; constructor, first weights, state dict and results are the same.

    The pixels under the kernel at each place, channel after channel, are the row of a matrix ("im2col"; Chellapilla,
    Puri and Simard 2006). Times the kernels as a matrix, that is the convolution. Differentiation is left to PyTorch,
    but for kernels that move by one pixel in training on CPUs: their gradient to the images is a convolution too
    (`_Slide`), and 3x3 pixels between many channels take fewer products (`models/layers/winograd.py`).

    Shapes: float (B, C, H, W) or (C, H, W) -> (B, O, H', W') or (O, H', W'), in channels_last order in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x) if x.ndim == 4 else self._convolve(x[None])[0]

    def _convolve(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            pass  # which knows nothing of autocast
        elif x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # now, while there are few numbers to convert
        if not torch.jit.is_scripting() and self._slides(x):
            return self._slide(x)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        patches = self._patches(F.pad(x, self._reversed_padding_repeated_twice, mode).permute(0, 2, 3, 1))
        bias = self.bias  # a name of its own, as TorchScript asks for
        if self.groups > 1:  # each group of outputs sees its own channels only
            _, inputs, rows, columns = self.weight.shape
            own = patches.view(-1, rows * columns, self.groups, inputs).permute(2, 0, 1, 3).flatten(2)
            kernels = self.weight.unflatten(0, (self.groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
            y = torch.bmm(own, kernels).transpose(0, 1).flatten(1).unflatten(0, patches.shape[:3])
            y = y if bias is None else y + bias.to(y.dtype)
        else:
            y = _product(patches, self.weight, bias)
        return y.permute(0, 3, 1, 2)

    @torch.jit.unused
    def _slides(self, x: Tensor) -> bool:
        by_one = self.stride == self.dilation == (1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        left, right, top, bottom = self._reversed_padding_repeated_twice
        rows, columns = self.kernel_size
        return trains_on_cpu(x) and by_one and max(left, right) < columns and max(top, bottom) < rows

    @torch.jit.unused
    def _slide(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        padding = tuple(self._reversed_padding_repeated_twice)
        if min(weight.shape[:2]) >= 64 and winograd.pays(x, weight, padding):  # as measured
            return winograd.convolve(x, weight, bias, padding)
        return _Slide.apply(x.permute(0, 2, 3, 1), weight, bias, padding).permute(0, 3, 1, 2)

    def _patches(self, images: Tensor) -> Tensor:
        """(B, H, W, C), padded -> (B, H', W', kernel pixels * C): what lies under the kernel at each place."""
        rows, columns = self.weight.shape[2:]
        last_row = images.shape[1] - self.dilation[0] * (rows - 1)  # one past the last place of the kernel's first row
        last_column = images.shape[2] - self.dilation[1] * (columns - 1)
        slices = []
        for row in range(rows):
            top = row * self.dilation[0]
            for column in range(columns):
                left = column * self.dilation[1]
                there = images[:, top : top + last_row : self.stride[0], left : left + last_column : self.stride[1]]
                slices.append(there)
        return torch.cat(slices, dim=3)


def convolve_by_hand(model: nn.Module) -> None:
    """Make every nn.Conv2d in the model a `Conv2d`, with the weights that it has.

    Subclasses stay as they are, as they may do more than convolve; but for the faster one of `models/layers/`.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d or isinstance(module, PackedConv2d):
            become(module, Conv2d)

"""A convolution written by hand: slices, one concatenation, one matrix product."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """nn.Conv2d with a forward pass of its own; constructor, first weights, state dict and results are the same.

    The pixels under the kernel at each place, channel after channel, are the row of a matrix ("im2col"; Chellapilla,
    Puri and Simard 2006). Times the kernels as a matrix, that is the convolution. Differentiation is left to PyTorch.

    Shapes: float (B, C, H, W) or (C, H, W) -> (B, O, H', W') or (O, H', W'), in channels_last order in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x) if x.ndim == 4 else self._convolve(x[None])[0]

    def _convolve(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            pass  # which knows nothing of autocast
        elif x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # now, while there are few numbers to convert
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        patches = self._patches(F.pad(x, self._reversed_padding_repeated_twice, mode).permute(0, 2, 3, 1))
        batch, height, width, _ = patches.shape
        patches = patches.flatten(0, 2)
        bias = self.bias  # a name of its own, as TorchScript asks for
        outputs, inputs, rows, columns = self.weight.shape
        if self.groups > 1:  # each group of outputs sees its own channels only
            own = patches.view(-1, rows * columns, self.groups, inputs).permute(2, 0, 1, 3).flatten(2)
            kernels = self.weight.unflatten(0, (self.groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
            y = torch.bmm(own, kernels).transpose(0, 1).flatten(1)
            y = y if bias is None else y + bias.to(y.dtype)
        else:
            y = F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), bias)
        return y.view(batch, height, width, outputs).permute(0, 3, 1, 2)

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
    """Make every nn.Conv2d in the model a `Conv2d`, with the weights that it has; subclasses stay as they are."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d

"""From a picture of any size to a model's input, in tensor operations: what Pillow and `Task.inputs` do elsewhere.

Resampling is two products with matrices of weights, which are computed from the size of the picture. So one graph
serves all sizes, needs none but elementary operations, and repeats Pillow's arithmetic: a box with fractions of a
pixel, weights of 22 bits, a byte after each pass. But the horizontal pass always comes first; Pillow 13 begins with the
vertical one where it shrinks a tall picture, which makes some of the pixels differ by one or two of 255.
"""

import torch
from torch import Tensor, nn

from data.geometry import Geometry
from tasks.base import Task

LUMA = (19595, 38470, 7471)  # of 65,536: ITU-R 601-2, as Pillow makes grey of colours


def bicubic(distance: Tensor) -> Tensor:
    """The cubic kernel with a = -0.5, of distances in pixels."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def bilinear(distance: Tensor) -> Tensor:
    """The triangle kernel, of distances in pixels."""
    return (1.0 - distance.abs()).clamp(min=0.0)


def shares(centers: Tensor, scale: Tensor, pixels: Tensor, cubic: bool) -> Tensor:
    """What share each pixel of a line has in each pixel of the resampled line, float64 (M, N); antialiased.

    Args:
        centers: of the new pixels, on the old line, float64 (M,).
        scale: old pixels per new one, float64 ().
        pixels: 0, 1, ... N - 1, float64.
        cubic: whether by the cubic kernel; else by the triangle.
    """
    distance = (pixels.unsqueeze(0) - centers.unsqueeze(1) + 0.5) / scale.clamp(min=1.0)
    kernel = bicubic(distance) if cubic else bilinear(distance)
    return kernel / kernel.sum(1, keepdim=True)


def as_in_pillow(weights: Tensor) -> Tensor:
    """Shares rounded to the 22 bits that Pillow computes with, float64."""
    return torch.round(weights * 4194304.0) / 4194304.0


def as_in_pytorch(weights: Tensor) -> Tensor:
    """Shares rounded to the 16 bits that PyTorch resizes bytes with on CPUs, float64."""
    bits = 0
    while bits < 22 and int(0.5 + float(weights.max()) * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return torch.round(weights * 2**bits) / 2**bits


def to_bytes(values: Tensor) -> Tensor:
    """Rounded to 0..255, halves upwards; still floats."""
    return torch.floor(values + 0.5).clamp(0.0, 255.0)


def fill_of(geometry: Geometry, channels: int) -> list[float]:
    """The value of each channel that "pad" fills with."""
    fill = geometry.fill or (0,)
    return [float(value) for value in (fill * channels if len(fill) == 1 else fill)]


class Prepare(nn.Module):
    """uint8 RGB (B, H, W, 3) of any height and width -> normalised float32 (B, C, h, w), as `task` prepares images.

    Args:
        task: says the geometry, the sizes and the normalisation.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.out_height, self.out_width, channels = task.image_shape
        self.grey, self.fit = channels == 1, task.geometry.fit
        self.bleed = (1 - task.geometry.crop_pct) / 2
        self.register_buffer(
            "fill", torch.tensor(fill_of(task.geometry, channels), dtype=torch.float64).view(1, -1, 1, 1)
        )
        self.register_buffer("luma", torch.tensor(LUMA, dtype=torch.float64).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in task.std]).view(1, -1, 1, 1))
        shift = [-m / s for m, s in zip(task.mean, task.std, strict=True)]
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1))
        # A second resizing, from the size that images were kept at to the model's own, is always the same.
        self.resized = task.input_shape[1:] != task.image_shape[:2]
        cubic = task.interpolation == "bicubic"
        for name, size, kept in zip(("rows", "columns"), task.input_shape[1:], task.image_shape, strict=False):
            self.register_buffer(name, self._whole_line(kept, size, cubic))

    @staticmethod
    def _whole_line(old: int, new: int, cubic: bool) -> Tensor:
        scale = torch.tensor(old / new, dtype=torch.float64)
        centers = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
        return as_in_pytorch(shares(centers, scale, torch.arange(old, dtype=torch.float64), cubic))

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        planes = pictures.permute(0, 3, 1, 2).double()  # in which sums of bytes times 22 bits are exact
        if self.grey:
            planes = torch.floor(((planes * self.luma).sum(1, keepdim=True) + 32768.0) / 65536.0)
        planes = self.fitted(planes)
        if self.resized:
            planes = to_bytes(torch.matmul(planes, self.columns.t()))
            planes = to_bytes(torch.matmul(self.rows, planes))
        return planes.float() * self.scale + self.shift

    def fitted(self, planes: Tensor) -> Tensor:
        """Bytes as float64 (B, C, H, W) -> (B, C, *size that images are kept at), cut, padded or stretched."""
        y = torch.arange(planes.shape[2], dtype=torch.float64, device=planes.device)
        x = torch.arange(planes.shape[3], dtype=torch.float64, device=planes.device)
        new_y = torch.arange(self.out_height, dtype=torch.float64, device=planes.device)
        new_x = torch.arange(self.out_width, dtype=torch.float64, device=planes.device)
        height, width = y.max() + 1.0, x.max() + 1.0
        top, left = torch.zeros_like(height), torch.zeros_like(width)
        rows, columns = torch.full_like(height, self.out_height), torch.full_like(width, self.out_width)
        if self.fit == "crop":
            (top, height), (left, width) = self.cut(height, width)
        if self.fit == "pad":
            rows = torch.minimum(rows, torch.round(height / width * self.out_width))
            columns = torch.minimum(columns, torch.round(width / height * self.out_height))
        down, across = torch.round((self.out_height - rows) * 0.5), torch.round((self.out_width - columns) * 0.5)
        y_scale, x_scale = height / rows, width / columns
        y_centers = top + ((new_y - down).clamp(min=0.0).minimum(rows - 1.0) + 0.5) * y_scale
        x_centers = left + ((new_x - across).clamp(min=0.0).minimum(columns - 1.0) + 0.5) * x_scale
        across_weights = as_in_pillow(shares(x_centers, x_scale, x, True))
        down_weights = as_in_pillow(shares(y_centers, y_scale, y, True))
        planes = to_bytes(torch.matmul(planes, across_weights.t()))
        planes = to_bytes(torch.matmul(down_weights, planes))
        if self.fit == "pad":
            inside_y = ((new_y >= down) & (new_y < down + rows)).unsqueeze(1)
            inside_x = ((new_x >= across) & (new_x < across + columns)).unsqueeze(0)
            planes = torch.where(inside_y & inside_x, planes, self.fill)
        return planes

    def cut(self, height: Tensor, width: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(first pixel, number of pixels) of the middle that is kept, down and across, in fractions of pixels."""
        ratio = self.out_width / self.out_height
        margin_y, margin_x = height * self.bleed, width * self.bleed
        live_height, live_width = height - margin_y * 2.0, width - margin_x * 2.0
        cut_height = torch.minimum(live_height, live_width / ratio)
        cut_width = torch.minimum(live_width, live_height * ratio)
        return (
            self.rounded(margin_y + (live_height - cut_height) * 0.5, cut_height),
            self.rounded(margin_x + (live_width - cut_width) * 0.5, cut_width),
        )

    def rounded(self, first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """A part of a line as Pillow's C code takes it: both ends in single precision."""
        start, end = first.float(), (first + length).float()
        return start.double(), (end - start).double()

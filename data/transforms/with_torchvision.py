"""Image transformations as torchvision computes them: what a model is to learn from pairs alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Images = TypeVar("Images", Tensor, Image)

FUNCTIONS: dict[str, Callable] = {
    "resize": lambda images, side: F.resize(images, [side, side], antialias=True),
    "crop": lambda images, side: F.center_crop(images, [side, side]),
    "grayscale": lambda images, _: F.rgb_to_grayscale(images),
    "vflip": lambda images, _: F.vertical_flip(images),
    "hflip": lambda images, _: F.horizontal_flip(images),
    "invert": lambda images, _: F.invert(images),
    "posterize": lambda images, bits: F.posterize(images, bits),
    "solarize": lambda images, threshold: F.solarize(images, threshold),
    "gamma": lambda images, exponent: F.adjust_gamma(images, exponent),
    "brightness": lambda images, factor: F.adjust_brightness(images, factor),
    "contrast": lambda images, factor: F.adjust_contrast(images, factor),
    "blur": lambda images, side: F.gaussian_blur(images, [side, side]),
}


def apply(transforms: Sequence[tuple[str, float | None]], images: Images) -> Images:
    """`images` with one transform after another applied, rounded to whole numbers after each, as torchvision does.

    Args:
        transforms: (name, number) as `transform_spec.parse` gives them.
        images: uint8 (B, C, H, W), C 1 or 3; or one PIL image.

    Returns:
        Of the same kind; channels and sides may be others.
    """
    for name, number in transforms:
        images = FUNCTIONS[name](images, number)
    return images

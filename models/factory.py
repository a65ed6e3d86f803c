"""Models made from their names: ours, timm's, with the layers that train faster on CPUs."""

import importlib
import inspect

from torch import nn

from models import DEFAULT_SIZE, FROM_TIMM, IMAGE_MODELS, MODELS, TIMM, check_name
from models.conv2d import convolve_by_hand
from models.layers.one_position import mend_small_maps
from models.layers.winograd_conv import save_products

GIVEN = ("input_shape", "num_classes", "output_shape")  # by create_model, which derives them from the data


def create_model(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int | None = None,
    output_shape: tuple[int, int, int] | None = None,
    conv: str = "native",
    **model_args,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: a key of MODELS or IMAGE_MODELS, or "timm/<name>" for any of timm's.
        input_shape: (channels, height, width) of the images.
        num_classes: size of the last layer; or
        output_shape: (channels, height, width) of the images to make.
        conv: "byhand" puts `models/conv2d.py` in the place of every plain nn.Conv2d, with its weights.
        model_args: passed to the constructor.

    Raises:
        ValueError, TypeError: no such model, or its constructor refuses the arguments.
    """
    check_name(name)
    if output_shape is not None and name not in IMAGE_MODELS:
        raise ValueError(f"it makes no images: give one of {', '.join(IMAGE_MODELS)}")
    if output_shape is None and name in IMAGE_MODELS:
        raise ValueError(f"it makes images, not classes: give one of {', '.join(MODELS)}, or --task transform")
    from_timm = None
    if name.startswith(TIMM):
        from_timm = importlib.import_module(FROM_TIMM)  # which takes a second, and only these models need
        model = from_timm.create_model(name.removeprefix(TIMM), input_shape, num_classes, model_args)
    else:
        module, class_name, _ = (MODELS | IMAGE_MODELS)[name]
        wanted = {"output_shape": output_shape} if name in IMAGE_MODELS else {"num_classes": num_classes}
        model = getattr(importlib.import_module(module), class_name)(input_shape=input_shape, **wanted, **model_args)
    if conv == "byhand":
        convolve_by_hand(model)
    save_products(model)
    mend_small_maps(model)
    if from_timm is not None:
        from_timm.mend_depthwise(model)
    return model


def argument_names(name: str) -> list[str]:
    """What --model-arg may set of one of our models; of timm's, which hand theirs on, nobody knows all."""
    if name.startswith(TIMM):
        return []
    module, class_name, _ = (MODELS | IMAGE_MODELS)[name]
    parameters = inspect.signature(getattr(importlib.import_module(module), class_name)).parameters
    return [parameter for parameter in parameters if parameter not in GIVEN]


def image_size(name: str, model_args: dict) -> int:
    """Side in pixels of the images that a model was made for: of timm's by their data config, of ours DEFAULT_SIZE."""
    if not name.startswith(TIMM):
        return DEFAULT_SIZE
    return importlib.import_module(FROM_TIMM).image_size(name.removeprefix(TIMM), model_args)

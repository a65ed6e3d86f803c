"""timm's models, made for the size and the channels of the images."""

import timm
from torch import nn

from models.layers.depthwise_conv import mend_depthwise

__all__ = ["create_model", "image_size", "mend_depthwise"]


def create_model(name: str, input_shape: tuple[int, int, int], num_classes: int, model_args: dict) -> nn.Module:
    """A model of timm's, by its name there."""
    channels, height, width = input_shape
    arguments = {"in_chans": channels, "num_classes": num_classes, **model_args}
    try:
        # Transformers size their position embedding by img_size; convolutional nets do not know the argument.
        return timm.create_model(name, img_size=(height, width), **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **arguments)


def image_size(name: str, model_args: dict) -> int:
    """Side in pixels of the images that a model was made for, by its data config."""
    asked = model_args.get("img_size")
    if asked is not None:
        return asked if isinstance(asked, int) else max(asked)
    config = timm.get_pretrained_cfg(name)
    return 224 if config is None else config.input_size[-1]

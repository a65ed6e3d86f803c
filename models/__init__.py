"""The models by name. A model file stands alone: it knows nothing of data sets or of the training loop.

`MODELS` maps a name to its file and class, not to the class itself, so that listing the models does not import torch.
A classifier's constructor is called as `Model(input_shape=(channels, height, width), num_classes=K, **model_args)`,
that of a model which makes images with `output_shape=(channels, height, width)` instead of the classes. A model that
starts from the data has a method `init_from(images)`, called once before training with some normalised training images.
"""

import importlib.util
import re
from pathlib import Path

from common.suggest import did_you_mean, near

# name -> (module, class, what it is)
MODELS = {
    "cnn": ("models.cnn", "CNN", "residual convolutional net for images of 8 to 64 pixels"),
    "mlp": ("models.mlp", "MLP", "multi-layer perceptron"),
    "whitened_cnn": (
        "models.whitened_cnn",
        "WhitenedCNN",
        "airbench's network for CIFAR-10, from 18 pixels up",
    ),
    "skip_mlp": (
        "models.skip_mlp",
        "SkipMLP",
        "perceptron of residual blocks, a projection where widths differ",
    ),
    "fcn": ("models.fcn", "FCN", "fully convolutional net, its layers given as lists"),
    "small_cnn": ("models.small_cnn", "SmallCNN", "four 5x5 convolutions, one linear layer"),
    "wide_cnn": ("models.wide_cnn", "WideCNN", "three convolutions, a linear layer of 1,024; for 128x128 pixels"),
    "byhand_cnn": ("models.byhand_cnn", "ByHandCNN", "three convolutions written by hand, three linear layers"),
    "fashion_cnn": ("models.fashion_cnn", "FashionCNN", "three convolutions, three linear layers, batch norm"),
}
# The same for models that make images from images.
IMAGE_MODELS = {
    "separable_map": (
        "models.separable_map",
        "SeparableMap",
        "a map along columns, one along rows; small and exact",
    ),
    "conv_translator": ("models.conv_translator", "ConvTranslator", "two convolutions, max-pool, two linear layers"),
}
CONVOLUTIONS = ("native", "byhand")
TIMM = "timm/"
FROM_TIMM = "models.from_timm"  # makes them
DEFAULT_SIZE = 64  # for photos of many sizes; our models take any


def timm_names() -> list[str]:
    """Names of all models that timm registers, read from its source: importing timm takes seconds."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    names: set[str] = set()
    for path in (Path(spec.origin).parent / "models").rglob("*.py"):
        names.update(re.findall(r"^@register_model\s+def (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    return sorted(names)


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest names, unless there is a model of this name. Imports nothing heavy."""
    known = timm_names() if name.startswith(TIMM) else [*MODELS, *IMAGE_MODELS]
    wanted = name.removeprefix(TIMM).split(".")[0]
    if wanted in known:
        return
    if not name.startswith(TIMM):
        known += [TIMM + timm_name for timm_name in timm_names()]
    prefix = TIMM if name.startswith(TIMM) else ""
    meant = [TIMM + name] if TIMM + name in known else [prefix + match for match in near(wanted, known)]
    hint = did_you_mean(meant, after=" ")
    raise ValueError(f"unknown model '{name}': {hint}see --list-models")

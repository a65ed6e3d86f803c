"""A folder of model.safetensors and config.json, which timm loads where the model is one of its own."""

import json
from collections.abc import Mapping
from pathlib import Path

import timm
from safetensors.torch import load_file
from safetensors.torch import save as encode
from torch import nn

from common.files import write_atomically, write_json
from engine.checkpoints.best_weights import FIRST_WEIGHTS
from engine.checkpoints.store import load_weights
from models import TIMM
from models.factory import create_model
from tasks.base import Task

FOLDER = "safetensors"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CROP_MODES = {"crop": "center", "pad": "border", "stretch": "squash"}  # as timm calls what --fit does
KEPT_BY_TIMM = ("first_conv", "classifier", "pool_size", "fixed_input_size")  # what it asks for to change the head


def write(folder: Path, content: Mapping, model: nn.Module, task: Task) -> nn.Module:
    """Write the folder, and return the model read back from it.

    Args:
        folder: made here.
        content: as `engine/checkpoints/best_weights.py` loads it.
        model, task: as it restores them.

    Raises:
        OSError: no room or no right to write.
    """
    folder.mkdir()
    tensors = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    data = encode(tensors, metadata={"format": "pt"})
    write_atomically(folder / WEIGHTS, lambda staged: staged.write_bytes(data))
    if not content["model"].startswith(TIMM):
        write_json(folder / CONFIG, _our_config(content, task))
        return _our_model(folder)
    # Transformers take img_size, to size their position embedding by; convolutional nets do not know the argument.
    for sizes in ({"img_size": list(task.input_shape[1:])}, {}):
        write_json(folder / CONFIG, _timm_config(content, model, task, sizes))
        try:
            return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        except TypeError as error:
            if "img_size" not in str(error):
                raise
    raise AssertionError("a model that is not given img_size cannot refuse it")


def _arguments(content: Mapping) -> dict:
    return {name: value for name, value in content["model_args"].items() if name not in FIRST_WEIGHTS}


def _of_pictures(content: Mapping, task: Task) -> dict:
    """How pictures become inputs, and outputs probabilities."""
    return {
        "class_names": task.class_names,
        "image_size": list(task.image_shape[:2]),
        "geometry": task.geometry.as_dict(),
        "temperature": float(content.get("temperature") or 1.0),
        "tta": task.tta,
    }


def _timm_config(content: Mapping, model: nn.Module, task: Task, sizes: dict) -> dict:
    channels, height, width = task.input_shape
    known = getattr(model, "pretrained_cfg", None) or {}
    pretrained = {
        **{name: known[name] for name in KEPT_BY_TIMM if known.get(name) is not None},
        "num_classes": len(task.class_names),
        "input_size": [channels, height, width],
        "mean": task.mean,
        "std": task.std,
        "interpolation": "bicubic",  # which all photos are prepared by
        "crop_pct": task.geometry.crop_pct,
        "crop_mode": CROP_MODES[task.geometry.fit],
        "label_names": task.class_names,
    }
    return {
        "architecture": content["model"].removeprefix(TIMM).split(".")[0],
        "num_classes": len(task.class_names),
        "num_features": model.num_features,
        "model_args": {"in_chans": channels, "num_classes": len(task.class_names), **sizes, **_arguments(content)},
        "pretrained_cfg": pretrained,
        "sameloop": _of_pictures(content, task),
    }


def _our_config(content: Mapping, task: Task) -> dict:
    return {
        "library": "sameloop",
        "model": content["model"],
        "model_args": _arguments(content),
        "conv": content["options"].get("conv", "native"),
        "input_shape": list(task.input_shape),
        "mean": task.mean,
        "std": task.std,
        **_of_pictures(content, task),
    }


def _our_model(folder: Path) -> nn.Module:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    model = create_model(
        config["model"],
        input_shape=tuple(config["input_shape"]),
        num_classes=len(config["class_names"]),
        conv=config["conv"],
        **config["model_args"],
    )
    load_weights(model, load_file(folder / WEIGHTS), str(folder))
    return model.eval()

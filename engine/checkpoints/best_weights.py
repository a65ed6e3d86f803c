"""best.pth: plain weights and all that is needed to use them, in a file that cannot run code when loaded."""

import pickle
import re
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from common.errors import UserError
from common.files import write_atomically
from data.transforms.spec import parse as parse_transform
from engine.checkpoints.store import load_weights
from options.resumed import near_runs
from tasks.base import Task
from tasks.classification.task import Classification
from tasks.image_to_image.task import Transformation

NEEDED = ("weights", "model", "model_args", "shape", "class_names", "mean", "std", "options", "mixed_precision")
# Arguments of timm's constructors that say where a model's first weights come from: ours come from best.pth alone.
FIRST_WEIGHTS = ("pretrained", "checkpoint_path")


def save(path: Path, weights: dict[str, Tensor], description: dict) -> None:
    """Write the weights of an unwrapped model, whole, with the rest of what NEEDED names (`description`), atomically.

    Only tensors and plain Python values go in, so that nothing in the file needs to be trusted.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = {"weights": weights, **description}
    buffer = BytesIO()  # as torch.save hides the reason when a disk is full
    torch.save(content, buffer)
    write_atomically(path, lambda place: place.write_bytes(buffer.getbuffer()))


def load(path: Path) -> dict:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        UserError: there is no such file, or it is not one of ours.
    """
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        near = f"; did you mean {' or '.join(near_runs(path.parent))}?" if near_runs(path.parent) else ""
        raise UserError(f"--weights {path}: {error.strerror or error}; give a run's best.pth{near}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"--weights {path}: {why_refused(error)}") from error
    missing = [name for name in NEEDED if not isinstance(content, dict) or name not in content]
    if missing:
        raise UserError(f"--weights {path}: not a best.pth of train.py: it lacks {', '.join(missing)}")
    return content


def why_refused(error: Exception) -> str:
    """What torch.load refused, without its advice to load the file unsafely."""
    refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if refused:
        return f"refused, as it holds more than weights: {refused[1]}, which could run code"
    return f"not a best.pth of train.py, or a damaged one ({type(error).__name__})"


def build_model(content: dict, where: str) -> nn.Module:
    """The model that `content` (from `load`) describes, with its weights.

    Raises:
        UserError: the weights do not fit the model that the file names.
    """
    height, width, channels = content["shape"]
    side = content["options"].get("input_size")
    arguments = {name: value for name, value in content["model_args"].items() if name not in FIRST_WEIGHTS}
    makes_images = content["options"].get("task") == "transform"
    answer = {"output_shape": content["output_shape"]} if makes_images else {"num_classes": len(content["class_names"])}
    try:
        model = models.create_model(
            content["model"],
            input_shape=(channels, side or height, side or width),
            **answer,
            conv=content["options"].get("conv", "native"),
            **arguments,
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{where} names a model that cannot be built: {error}") from error
    load_weights(model, content["weights"], where)
    return model.to(memory_format=torch.channels_last) if content["options"]["channels_last"] else model


def build_task(content: dict, device: torch.device, tta: str | None) -> Task:
    """The task that `content` (from `load`) was trained for, without augmentation; `tta` None: as in training."""
    options = content["options"]
    of_every_task = {
        "shape": tuple(content["shape"]),
        "class_names": content["class_names"],
        "mean": content["mean"],
        "std": content["std"],
        "device": device,
        "channels_last": options["channels_last"],
        "input_size": options.get("input_size"),
        "interpolation": options.get("interpolation"),
        "ranges": content.get("ranges"),
    }
    if options.get("task", "classify") == "transform":
        transforms = parse_transform(options["transform"]) if options["transform"] else None
        return Transformation(transforms=transforms, output_shape=content["output_shape"], **of_every_task)
    return Classification(tta=tta or options.get("tta", "none"), **of_every_task)

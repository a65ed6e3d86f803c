"""best.pth: plain weights and all that is needed to use them, in a file that cannot run code when loaded."""

import pickle
from pathlib import Path

import torch
from torch import nn

import models
from engine.checkpoint import load_weights
from engine.errors import UserError
from engine.files import write_atomically
from engine.tasks import Classification

NEEDED = ("weights", "model", "model_args", "shape", "class_names", "mean", "std", "options", "mixed_precision")


def save(path: Path, model: nn.Module, description: dict) -> None:
    """Write the weights of an unwrapped model with the rest of what NEEDED names (`description`), atomically.

    Only tensors and plain Python values go in, so that nothing in the file needs to be trusted.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = {"weights": weights, **description}
    write_atomically(path, lambda place: torch.save(content, place))


def load(path: Path) -> dict:
    """Read what `save` wrote; nothing in the file is executed.

    Raises:
        UserError: there is no such file, or it is not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--weights {path}: there is no such file; give a run's best.pth") from None
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"--weights {path}: not a weights file that loads safely: {reason}") from error
    missing = [name for name in NEEDED if not isinstance(content, dict) or name not in content]
    if missing:
        raise UserError(f"--weights {path}: not a best.pth of train.py: it lacks {', '.join(missing)}")
    return content


def build_model(content: dict, where: str) -> nn.Module:
    """The model that `content` (from `load`) describes, with its weights.

    Raises:
        UserError: the weights do not fit the model that the file names.
    """
    height, width, channels = content["shape"]
    try:
        model = models.create_model(
            content["model"],
            input_shape=(channels, height, width),
            num_classes=len(content["class_names"]),
            **content["model_args"],
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} names a model that cannot be built: {error}") from error
    load_weights(model, content["weights"], where)
    return model


def build_task(content: dict, device: torch.device) -> Classification:
    """The task that `content` (from `load`) was trained for, without augmentation."""
    return Classification(
        shape=tuple(content["shape"]),
        class_names=content["class_names"],
        mean=content["mean"],
        std=content["std"],
        device=device,
        channels_last=content["options"]["channels_last"],
    )

"""best.pth: plain weights and all that is needed to use them, in a file that cannot run code when loaded."""

import pickle
import re
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

import tasks
from common.errors import UserError
from common.files import write_atomically
from common.hub import is_on_hub, local_file
from common.suggest import did_you_mean
from data.geometry import from_dict
from engine.checkpoints.store import load_weights
from models.factory import create_model
from options.resumed import near_runs
from tasks.base import Task

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
    write_atomically(path, lambda staged: staged.write_bytes(buffer.getbuffer()))


def load(path: Path) -> dict:
    """Read what `save` wrote, a file or the Hub's hf:OWNER/NAME; nothing in it is executed.

    Raises:
        UserError: there is no such file, or it is not one of ours.
    """
    file_path = local_file(path.as_posix(), "--weights") if is_on_hub(path.as_posix()) else path
    try:
        with file_path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        hint = did_you_mean(near_runs(path.parent), before="; ")
        raise UserError(f"--weights {path}: {error.strerror or error}; give a run's best.pth{hint}") from error
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


def restore(
    content: dict, path: str, device: torch.device | str = "cpu", tta: str | None = None
) -> tuple[nn.Module, Task]:
    """The model that `content` (from `load`) describes, with its weights, and the task that it was trained for.

    Args:
        content: what the file `path` holds.
        path: for messages.
        device: where both are to be.
        tta: views that predictions are averaged over; None: as in training.

    Raises:
        UserError: the weights do not fit the model that the file names.
    """
    options = content["options"] | ({} if tta is None else {"tta": tta})
    task = tasks.build_task(
        options,
        shape=tuple(content["shape"]),
        class_names=content["class_names"],
        mean=content["mean"],
        std=content["std"],
        device=torch.device(device),
        ranges=content.get("ranges"),
        geometry=from_dict(content.get("geometry")),
        output_shape=content.get("output_shape"),
    )
    task.use(content)
    arguments = {name: value for name, value in content["model_args"].items() if name not in FIRST_WEIGHTS}
    try:
        model = create_model(
            content["model"],
            input_shape=task.input_shape,
            **task.model_kwargs,
            conv=options.get("conv", "native"),
            **arguments,
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{path} names a model that cannot be built: {error}") from error
    load_weights(model, content["weights"], path)
    memory_format = torch.channels_last if options["channels_last"] else torch.preserve_format
    return model.to(device, memory_format=memory_format), task

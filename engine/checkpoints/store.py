"""A run's state on disk: complete or not there, checked before it is used, and nothing in it that can run code.

A checkpoint is a folder `checkpoints/step-N/` of tensors (safetensors), `state.json` and, written last,
`manifest.json` with the SHA-256 of each of the others. A folder without a valid manifest is no checkpoint.
"""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import flush, strict
from engine.runtime.sharding import divide, is_sharded

MANIFEST = "manifest.json"
FORMAT = 2  # of a checkpoint; another one is not read


class Damaged(Exception):
    """A folder is no intact checkpoint; the message says which file is wrong and how."""


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int) -> None:
    """Write `folder` (named step-N) whole, then remove all but the newest `keep` checkpoints beside it.

    Args:
        folder: where the checkpoint will be; an intact one of that name holds the same and is left as it is.
        tensors: file name without suffix -> name -> tensor.
        state: what is not tensors, for JSON.
        keep: how many checkpoints to leave, this one included.

    Raises:
        OSError: no room or no right to write; older checkpoints are then as they were.
    """
    if is_intact(folder):
        return
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        for name, group in tensors.items():
            save_file(_apart(group), staging / f"{name}.safetensors")
        (staging / "state.json").write_text(json.dumps(strict(state)), encoding="utf-8")
        files = sorted(staging.iterdir())
        for file in files:
            flush(file)
        manifest = {
            "format": FORMAT,
            "step": state["step"],
            "sha256": {file.name: _sha256(file) for file in files},
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        flush(staging / MANIFEST)
        flush(staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for old in list_checkpoints(folder.parent)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    for litter in folder.parent.glob(".step-*.tmp"):  # of a run that was killed while it saved
        shutil.rmtree(litter, ignore_errors=True)


def _apart(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU as safetensors takes them, none sharing memory: tied ones once, others copied."""
    tied = tied_to(group)
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in group.items() if name not in tied}
    seen: set[int] = set()
    for name, value in on_cpu.items():
        memory = value.untyped_storage().data_ptr()
        if memory in seen:
            on_cpu[name] = value.clone()
        seen.add(memory)
    return on_cpu


def tied_to(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Which names mean a tensor that an earlier one means, as where layers share weights: that name by the later one.

    Tensors that are sharded are never the same: sharding has made copies of them.
    """
    first: dict[tuple, str] = {}
    tied = {}
    for name, value in tensors.items():
        if is_sharded(value) or not value.numel() or value.device.type == "meta":
            continue
        same = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if first.setdefault(same, name) != name:
            tied[name] = first[same]
    return tied


def list_checkpoints(parent: Path) -> list[Path]:
    """The folders step-N, newest (largest N) first, intact or not."""
    folders = [path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """N of a folder step-N."""
    return int(folder.name.removeprefix("step-"))


def is_intact(folder: Path) -> bool:
    """Whether `load` would succeed."""
    try:
        load(folder)
    except Damaged:
        return False
    return True


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Read a checkpoint after checking every file against the manifest: (tensors, state) as given to `save`.

    Raises:
        Damaged: a file is missing, cut short or changed, or there is no valid manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, expected = manifest["format"], dict(manifest["sha256"])
    except FileNotFoundError:
        reason = f"has no {MANIFEST}: it was never completed" if folder.exists() else "does not exist"
        raise Damaged(f"{folder} {reason}") from None
    except NotADirectoryError:
        raise Damaged(f"{folder} is no folder step-N of checkpoints/, nor a run's folder") from None
    except OSError as error:  # a name that is too long, or a file that may not be read
        raise Damaged(f"{folder} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / MANIFEST} is damaged: {error}") from error
    if version != FORMAT:
        raise Damaged(f"{folder} has format {version} of another version of this program, which reads {FORMAT}")
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing")
        if _sha256(folder / name) != digest:
            raise Damaged(f"{folder / name} is not what was saved: its SHA-256 differs")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {Path(name).stem: load_file(folder / name) for name in expected if name.endswith(".safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(f"{folder} cannot be read: {error}") from error
    return tensors, state


def newest_intact(parent: Path) -> tuple[Path, dict[str, dict[str, Tensor]], dict, list[str]] | None:
    """The newest checkpoint that loads: (folder, tensors, state, why newer ones do not load), or None for none."""
    complaints = []
    for folder in list_checkpoints(parent):
        try:
            return folder, *load(folder), complaints
        except Damaged as error:
            complaints.append(str(error))
    if complaints:
        raise UserError(
            f"no checkpoint in {parent} is intact: {'; '.join(complaints)}; remove the folder to start afresh"
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors, "<parameter number>.<name>", sharded where the parameter is.

    Its options are the run's options.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, whole, in each parameter's own memory format, device and division."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        if value.shape == parameter.shape and value.ndim:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(divide(value, parameter))
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load whole weights into a model, sharded or not, that must fit them.

    Raises:
        UserError: names or shapes differ; names the first of them.
    """
    own = model.state_dict()
    weights = with_tied(weights, own)
    wrong = differences(own, weights)
    if wrong:
        raise UserError(
            f"the weights in {where} are of another model or class count: {wrong[0]} ({len(wrong)} differences)"
        )
    model.load_state_dict({name: divide(value, own[name]) for name, value in weights.items()})


def with_tied(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the names of a model's, `own`, that share another one's tensor, of which files keep one only."""
    tied = tied_to(own)
    missing = {name: first for name, first in tied.items() if name not in weights and first in weights}
    return weights | {name: weights[first] for name, first in missing.items()}


def differences(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """How weights differ in names and shapes from those that a model has, `own`: a few words for each difference."""
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    return wrong


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What the runs of a cross-validation predict of the images that each of them had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from accelerate import Accelerator

from common import console
from common.errors import UserError
from common.files import is_folder
from data.dataset import DataSplits, Subset, changed_parts
from engine.checkpoints import best_weights
from engine.held_out import options_of_run
from engine.load import load_data
from engine.runtime import hardware
from engine.runtime.accelerator import start_accelerator
from engine.runtime.sharing import from_one
from options.clean import CleanOptions
from tasks import evaluate


@dataclass(frozen=True)
class OutOfFold:
    """The training images of a cross-validation, each predicted by a run that was not trained on it.

    Attributes:
        name: of the data set.
        train: all images that some run held out.
        test: of the data set, which no run was trained on.
        class_names: the name of each label.
        probabilities: float32 (N, K) of `train`; the mean, where several runs held an image out.
    """

    name: str
    train: Subset
    test: Subset
    class_names: list[str]
    probabilities: np.ndarray


def find_members(group: Path) -> list[Path]:
    """The folders of the runs of a cross-validation in the folder `group`, each done.

    Raises:
        UserError: it holds none, one is not done or of another task, or a fold is missing.
    """
    folders = sorted(file.parent for file in group.glob("*/args.yaml")) if is_folder(group) else []
    options = {folder: _read_options(folder / "args.yaml") for folder in folders}
    if not any(found.get("folds") for found in options.values()):
        raise UserError(f"{group} holds no runs of train.py --folds: give the folder of such")
    held_out: dict[tuple, set[int]] = {}
    for folder, found in options.items():
        if found.get("fold") is None or found.get("task", "classify") != "classify":
            raise UserError(f"{folder} is no fold of a classifier: move it elsewhere")
        if not all((folder / name).is_file() for name in ("best.pth", "test.json")):
            raise UserError(f"{folder} is not done: go on with its runs by --resume auto")
        held_out.setdefault((found["folds"], found.get("seed")), set()).add(found["fold"])
    for (folds, _), present in held_out.items():
        missing = sorted(set(range(folds)) - present)
        if missing:
            raise UserError(f"{group} lacks fold {missing[0]} of {folds}: go on with its runs by --resume auto")
    return folders


def _read_options(file: Path) -> dict:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    return found if isinstance(found, dict) else {}


def predict(args: CleanOptions, folders: Sequence[Path]) -> tuple[OutOfFold, Accelerator]:
    """Let each run predict the images that it held out, with the weights and the views that it kept.

    Raises:
        UserError: the images have changed since, or the runs are not of one data set.
    """
    accelerator, first, known = None, None, None
    for number, folder in enumerate(folders, 1):
        content = from_one(lambda path=folder / "best.pth": best_weights.load(path))
        if accelerator is None:
            precision = args.mixed_precision or hardware.usable_precision(content["mixed_precision"], args.cpu)
            accelerator, _ = start_accelerator(replace(args, mixed_precision=precision))
        data = _data_of(folder, content, args.data_dir, accelerator)
        if first is None or known is None:
            first, known = data, _Known(data)
        _check_same(folder, data, first)
        console.status(f"run {number} of {len(folders)}: {folder.name}")
        model, task = best_weights.restore(content, str(folder / "best.pth"), accelerator.device)
        batch_size = args.batch_size or content["options"]["batch_size"]
        outputs, _ = evaluate.predict(model, task, data.val, accelerator, batch_size)
        known.add(data.val.ids, task.probabilities(outputs).numpy())
    return known.of(first), accelerator


def _data_of(folder: Path, content: dict, data_dir: str | None, accelerator: Accelerator) -> DataSplits:
    """The data set of a run, split as it was then.

    Raises:
        UserError: it is not on this machine, or no longer the same.
    """
    data = load_data(options_of_run(content, data_dir), accelerator)
    changed = changed_parts(content.get("fingerprints") or {}, data.fingerprints())
    if changed:
        raise UserError(
            f"the {changed} images of {content['options']['dataset']} have changed since {folder} was trained: bring "
            "them back, say with --data-dir where they are now, or train anew"
        )
    return data


def _check_same(folder: Path, data: DataSplits, first: DataSplits) -> None:
    """Raise UserError unless `data` of the run in `folder` has the images and labels of `first`."""
    pairs = [(data.train.arrays, first.train.arrays), (data.test.arrays, first.test.arrays)]
    same = all(
        np.array_equal(one.hashes, other.hashes) and np.array_equal(one.labels, other.labels) for one, other in pairs
    )
    if not same or data.class_names != first.class_names or not np.array_equal(data.test.ids, first.test.ids):
        raise UserError(f"{folder} is of another data set than the runs beside it: give the folder of one --folds")


class _Known:
    """Sums of the probabilities of each row of the train split."""

    def __init__(self, data: DataSplits) -> None:
        rows = len(data.train.arrays.labels)
        self.sums = np.zeros((rows, len(data.class_names)), dtype=np.float32)
        self.counts = np.zeros(rows, dtype=np.int64)

    def add(self, ids: np.ndarray, probabilities: np.ndarray) -> None:
        self.sums[ids] += probabilities
        self.counts[ids] += 1

    def of(self, data: DataSplits) -> OutOfFold:
        ids = np.flatnonzero(self.counts)
        probabilities = self.sums[ids] / self.counts[ids, None]
        return OutOfFold(data.name, Subset(data.train.arrays, ids), data.test, data.class_names, probabilities)

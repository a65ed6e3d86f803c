"""Folders of paired images: what a model is given, and what it is to make of it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data import cache
from data.cache import Arrays
from data.dataset import ImageData, describe_train, limited, split_parts
from data.folders import Folder, left_out_in_words
from data.images import UNREADABLE, is_grey, open_image, to_array, upright_size
from data.sources import Source, find_source
from data.split_names import named_splits
from engine.errors import UserError

INPUTS, TARGETS = ("input", "inputs"), ("target", "targets")
NAMED_AT_ONCE = 5  # files in a message


def load_pairs(
    dataset: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    val_fraction: float | None = None,
    limit_train: int | None = None,
    seed: int = 0,
) -> ImageData:
    """Read a folder that holds `input/` and `target/`, or `train/` (and `test/`, `validation/`) that hold them.

    Files belong together that have the same path below the two, whatever the suffix. Held out are the same parts as
    of any data set. All is decoded at each start.

    Args:
        image_size: side in pixels that inputs of other sizes are brought to; None: they must all be of one size.
            Targets are taken as they are.
        data_dir, val_fraction, limit_train, seed: as in `data/dataset.py`.

    Raises:
        UserError: no pairs there, an image without its other half, unreadable images, or images of several sizes.
    """
    source = find_source(dataset, data_dir)
    places, about_source = _places(source, dataset)
    pairs = [(split, one, other) for split, place in places.items() for one, other in _paired(place)]
    inputs = _decode([one for _, one, _ in pairs], "inputs", image_size)
    targets = _decode([other for _, _, other in pairs], "targets", None)
    splits, rows = {}, {}
    for split in places:
        rows[split] = np.array([number for number, pair in enumerate(pairs) if pair[0] == split])
        images = inputs[rows[split]]
        splits[split] = Arrays(images, np.zeros(len(images), dtype=np.int64), *cache.describe(images))
    train, val, test = split_parts(dataset, splits, val_fraction, None, seed)
    train = limited(train, limit_train, seed)
    if not len(train) or not len(test) or (not len(val) and val_fraction != 0):
        raise UserError(f"{dataset} has {len(pairs)} pairs, too few to hold some out: add pairs")
    for split, arrays in splits.items():
        arrays.labels[:] = rows[split]  # from here on a label is the number of a target
    return describe_train(source.name, train, val, test, ["pair"], splits, targets, about_source)


def _places(source: Source, dataset: str) -> tuple[dict[str, Folder], list[str]]:
    """The folder that holds `input` and `target`, by split; and what is left out, in sentences."""
    if source.kind == "tree":
        root = source.folder
        inner = {folder.path.name: folder for folder in root.folders() if folder.holds_images()}
        found = {split: inner[name] for split, name in named_splits(inner, source.where).items()} or {"train": root}
        if "train" in found and all(_inside(place, INPUTS) and _inside(place, TARGETS) for place in found.values()):
            used = [root, *(_inside(root, names) for names in (INPUTS, TARGETS)), *found.values()]
            others = [name for name, folder in inner.items() if all(folder is not other for other in used)]
            left_out = left_out_in_words(root.left_out())
            remarks = [f"the folder {name}/ is left out: it is not one of {', '.join(found)}" for name in others]
            return found, [*remarks, *([left_out] if left_out else [])]
    raise UserError(
        f"--task transform without --transform needs a folder of pairs, input/ and target/ with equal names (below "
        f"train/ and test/ where there are splits), which {dataset} is not: give --transform, or such a folder"
    )


def _inside(place: Folder, names: Sequence[str]) -> Folder | None:
    return next((folder for folder in place.folders() if folder.path.name in names), None)


def _paired(place: Folder) -> list[tuple[Path, Path]]:
    halves = []
    for names in (INPUTS, TARGETS):
        folder = _inside(place, names)
        half: dict[Path, Path] = {}
        for path in folder.images():
            first = half.setdefault(path.relative_to(folder.path).with_suffix(""), path)
            if first != path:
                raise UserError(f"{first} and {path} differ in their suffix alone: rename or remove one of them")
        halves.append(half)
    alone = sorted(str(name) for name in halves[0].keys() ^ halves[1].keys())
    if alone or not halves[0]:
        named = ", ".join(alone[:NAMED_AT_ONCE]) + (" ..." if len(alone) > NAMED_AT_ONCE else "")
        reason = f"{len(alone)} images are only in one of the two: {named}" if alone else "they are empty"
        raise UserError(f"input and target in {place.path} do not match: {reason}")
    return [(path, halves[1][name]) for name, path in halves[0].items()]


def _decode(paths: list[Path], what: str, side: int | None) -> np.ndarray:
    """uint8 (N, H, W, C), grey where all are."""

    def look(path: Path) -> tuple[bool, tuple[int, int]] | str:
        try:
            with open_image(path) as image:
                return is_grey(image), upright_size(image)
        except UNREADABLE as error:
            return f"{path}: {error}"

    def read(path: Path) -> np.ndarray | str:
        try:
            with open_image(path) as image:
                return to_array(image, channels, (side, side) if side else None)
        except UNREADABLE as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = list(pool.map(look, paths))
        _refuse_bad([found for found in looked if isinstance(found, str)])
        sizes = {size for _, size in looked}
        if side is None and len(sizes) > 1:
            remedy = "give --image-size" if what == "inputs" else "bring them to one"
            raise UserError(f"the {what} have {len(sizes)} sizes, from {min(sizes)} to {max(sizes)} pixels: {remedy}")
        channels = 1 if all(grey for grey, _ in looked) else 3
        arrays = list(pool.map(read, paths))
    _refuse_bad([found for found in arrays if isinstance(found, str)])
    return np.stack(arrays)


def _refuse_bad(bad_images: list[str]) -> None:
    if bad_images:
        raise UserError(f"{len(bad_images)} images cannot be read; mend or remove their pairs: {'; '.join(bad_images)}")

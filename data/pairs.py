"""Folders of paired images: what a model is given, and what it is to make of it."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data import decode_all
from data.arrays import Arrays, Decoded
from data.dataset import DataSplits, build_splits
from data.decode import UNREADABLE, open_image, to_array, upright_size
from data.folders import Folder, left_out_in_words
from data.pixel_range import Ranges, is_cut
from data.sources import Source, find_source
from data.split_names import named_splits
from data.subsets import cut_subsets, subsample
from data.survey import Survey, look_at, merged

INPUTS, TARGETS = ("input", "inputs"), ("target", "targets")
NAMED_AT_ONCE = 5  # files in a message


def load_pairs(
    dataset: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    default_size: Callable[[], int] | None = None,
    val_fraction: float | None = None,
    limit_train: int | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> DataSplits:
    """Read a folder that holds `input/` and `target/`, or `train/` (and `test/`, `validation/`) that hold them.

    Files belong together that have the same path below the two, whatever the suffix. Held out are the same parts as
    of any data set. All is decoded at each start.

    Args:
        image_size: side in pixels that inputs of other sizes are brought to, and targets alike; None: they stay as
            they are, where the inputs are of one size, and the targets too.
        default_size: as in `data/dataset.py`.
        rows: take no more than this many pairs of each split, for a smoke test.
        data_dir, val_fraction, limit_train, limit_val, limit_test, seed: as in `data/dataset.py`.

    Raises:
        UserError: no pairs there, an image without its other half, unreadable images, or images of several sizes.
    """
    source = find_source(dataset, data_dir)
    split_folders, about_source = _split_folders(source, dataset)
    pairs = [
        (split, one, other) for split, folder in split_folders.items() for one, other in _spread(_paired(folder), rows)
    ]
    names = np.array([split for split, _, _ in pairs])
    inputs, targets = (_look([pair[half] for pair in pairs], names == "train") for half in (1, 2))
    by_default = image_size is None and default_size is not None and len(set(inputs.sizes)) > 1
    sides = _sides(inputs, targets, default_size() if by_default else image_size)
    (images, cut), (target_images, _) = _decode(inputs, sides[0]), _decode(targets, sides[1])
    splits, numbers = {}, {}
    for split in split_folders:
        numbers[split] = np.flatnonzero(names == split)
        own = images[numbers[split]]
        labels = np.zeros(len(own), dtype=np.int64)
        splits[split] = Arrays(own, labels, *decode_all.describe(own), cut_images=int(cut[numbers[split]].sum()))
    parts = cut_subsets(dataset, splits, val_fraction, None, seed)
    if not all(len(part) for part in parts[::2]) or (not len(parts[1]) and val_fraction != 0):
        raise UserError(f"{dataset} has {len(pairs)} pairs, too few to hold some out: add pairs")
    parts = subsample(parts, (limit_train, limit_val, limit_test), seed, smoke=rows is not None)
    for split, arrays in splits.items():
        arrays.labels[:] = numbers[split]  # from here on a label is the number of a target
    decoded = Decoded(splits, ["pair"], about_source, inputs.ranges, Counter(inputs.sizes))
    return build_splits(source.name, *parts, decoded, targets=target_images, by_default=by_default)


def _spread(pairs: list[tuple[Path, Path]], rows: int | None) -> list[tuple[Path, Path]]:
    """At most so many of the pairs, from all over them; None: all."""
    return pairs if rows is None else pairs[:: -(-len(pairs) // rows)]


def _split_folders(source: Source, dataset: str) -> tuple[dict[str, Folder], list[str]]:
    """The folder that holds `input` and `target`, by split; and what is left out, in sentences."""
    if source.kind == "tree":
        root = source.folder
        inner = {folder.path.name: folder for folder in root.folders() if folder.holds_images()}
        found = {split: inner[name] for split, name in named_splits(inner, source.where).items()} or {"train": root}
        if "train" in found and all(
            _inside(split_folder, INPUTS) and _inside(split_folder, TARGETS) for split_folder in found.values()
        ):
            used = [root, *(_inside(root, names) for names in (INPUTS, TARGETS)), *found.values()]
            others = [name for name, folder in inner.items() if all(folder is not other for other in used)]
            left_out = left_out_in_words(root.left_out())
            remarks = [f"the folder {name}/ is left out: it is not one of {', '.join(found)}" for name in others]
            return found, [*remarks, *([left_out] if left_out else [])]
    raise UserError(
        f"--task transform without --transform needs a folder of pairs, input/ and target/ with equal names (below "
        f"train/ and test/ where there are splits), which {dataset} is not: give --transform, or such a folder"
    )


def _inside(split_folder: Folder, names: Sequence[str]) -> Folder | None:
    return next((folder for folder in split_folder.folders() if folder.path.name in names), None)


def _paired(split_folder: Folder) -> list[tuple[Path, Path]]:
    halves = []
    for names in (INPUTS, TARGETS):
        folder = _inside(split_folder, names)
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
        raise UserError(f"input and target in {split_folder.path} do not match: {reason}")
    return [(path, halves[1][name]) for name, path in halves[0].items()]


@dataclass(frozen=True)
class _Half:
    """The inputs or the targets of all pairs.

    Attributes:
        paths: of the files; `sizes`: the (height, width) of each, in pixels.
        grey: whether none has any colour.
        ranges: of their values, in train.
    """

    paths: list[Path]
    sizes: list[tuple[int, int]]
    grey: bool
    ranges: Ranges


def _look(paths: list[Path], in_train: np.ndarray) -> _Half:
    def look(path: Path, measured: bool) -> tuple[Survey, tuple[int, int]] | str:
        try:
            with open_image(path) as image:
                size = upright_size(image)
            return look_at([path], measured=measured), size
        except UNREADABLE as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(look, paths, in_train))
    _refuse_bad([one for one in found if isinstance(one, str)])
    seen = merged(survey for survey, _ in found)
    return _Half(paths, [size for _, size in found], seen.grey, seen.ranges)


def _sides(inputs: _Half, targets: _Half, image_size: int | None) -> tuple[int | None, int | None]:
    """The sides that inputs and targets are brought to, so that the same part of both is left; None: as they are.

    Raises:
        UserError: a target is not as large as its input, nor the same share of it as all others; or without
            `image_size` there are several sizes.
    """
    counts = [len(set(half.sizes)) for half in (inputs, targets)]
    if image_size is None and counts == [1, 1]:
        return None, None
    found = f"the inputs have {counts[0]} sizes and the targets {counts[1]}"
    if image_size is None:
        raise UserError(f"{found}: give --image-size to bring them to one")
    share = float(np.median(np.divide(targets.sizes, inputs.sizes)))
    for number, (size, target) in enumerate(zip(inputs.sizes, targets.sizes, strict=True)):
        apart = max(abs(share * side - other) for side, other in zip(size, target, strict=True))
        if apart >= max(share, 1):  # less is the rounding of the sides of smaller copies
            raise UserError(
                f"{found}: to be brought to one (--image-size), each target must be the same share of its input, but "
                f"{targets.paths[number]} is of {target[1]}x{target[0]} pixels and its input of {size[1]}x{size[0]}: "
                "bring them to one form"
            )
    return image_size, max(1, round(share * image_size))


def _decode(half: _Half, side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (N, H, W, C), grey where all are, and which have values beyond the range, bool (N,)."""

    def read(path: Path) -> tuple[np.ndarray, bool] | str:
        try:
            with open_image(path) as image:
                size = (side, side) if side else None
                return to_array(image, 1 if half.grey else 3, size, half.ranges), is_cut(image, half.ranges)
        except UNREADABLE as error:
            return f"{path}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(read, half.paths))
    _refuse_bad([one for one in found if isinstance(one, str)])
    return np.stack([image for image, _ in found]), np.array([cut for _, cut in found])


def _refuse_bad(bad_images: list[str]) -> None:
    if bad_images:
        raise UserError(f"{len(bad_images)} images cannot be read; fix or remove their pairs: {'; '.join(bad_images)}")

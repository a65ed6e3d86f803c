"""Decoded splits, kept on disk as memory-mapped uint8 arrays: decoded once, shared by all processes of a machine."""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image

from common.errors import UserError
from common.files import flush
from data.decode import UNREADABLE, open_image, to_array
from data.geometry import MIDDLE, Geometry, from_dict
from data.pixel_range import Ranges, is_cut
from data.readers import UNLABELLED, RawSplit
from data.survey import CHUNK, Survey, filled, some_photos
from data.threads import in_threads

FORMAT = 6  # part of every key: raise it when what is stored changes
ARRAYS = ("labels", "hashes", "moments")  # beside the images
NAMED_AT_ONCE = 100  # bad images in a message
CHUNK_BYTES = 2**22  # of decoded pixels at once


@dataclass(frozen=True)
class Arrays:
    """One decoded split.

    Attributes:
        images: uint8 (N, H, W, C), memory-mapped; C is 1 or 3.
        labels: int64 (N,).
        hashes: uint64 (N,), equal for images that are equal in every pixel.
        moments: float64 (N, C, 2), each image's mean and mean square per channel, of pixels in 0..1.
        bad_images: "where: why" of every sample that could not be decoded or has no label, and was left out.
        names: where each image is from, a file or a row of a split; empty where nobody knows.
        cut_images: how many had values outside of the range of train, which were cut off.
        groups: int64 (N,), equal for images that belong together; None: each is by itself.
    """

    images: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray
    moments: np.ndarray
    bad_images: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    cut_images: int = 0
    groups: np.ndarray | None = None


class Decoded(NamedTuple):
    """A decoded data set.

    Attributes:
        splits: by their names.
        class_names: the name of each label.
        remarks: what a person should know of how the source was understood, in sentences.
        ranges: of values of more than eight bits, in train: what became 0 and 255.
        sizes: how many images there were of each (height, width), in pixels, before they were brought to one.
        geometry: how they were brought to it.
    """

    splits: dict[str, Arrays]
    class_names: list[str]
    remarks: list[str]
    ranges: Ranges
    sizes: dict[tuple[int, int], int]
    geometry: Geometry = MIDDLE


def cache_root() -> Path:
    """The folder beside the `datasets` cache, found by the same environment variables without importing it."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = os.environ.get("HF_HOME", f"{home}/huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE", f"{hub}/datasets")).expanduser().parent / "sameloop"


def cache_folder(name: str, fingerprint: str, *choices: object) -> Path:
    """Where the decoded splits of data with this fingerprint live, decoded with these choices (path, size, ...).

    Its parent belongs to the name and the choices, so that data which has changed takes the place of what it was.
    """
    return cache_root() / f"{name}-{_key([FORMAT, *map(str, choices)])}" / _key(fingerprint)


def _key(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def read(folder: Path) -> Decoded | None:
    """Open a cached data set, or None where it is not cached or has lost a part."""
    try:
        return _open(folder)
    except (OSError, ValueError, KeyError, EOFError):  # gone, or cut short: whoever tidies a cache does not ask
        return None


def _open(folder: Path) -> Decoded:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    splits = {}
    for name, (shape, bad_images, names, cut_images) in meta["splits"].items():
        # Mode "c" (copy on write) because torch warns about arrays that it could not write to.
        path = folder / f"{name}-images.raw"
        images = np.memmap(path, np.uint8, "c", shape=tuple(shape)) if shape[0] else np.zeros(shape, np.uint8)
        rest = [np.load(folder / f"{name}-{array}.npy") for array in ARRAYS]
        grouped = folder / f"{name}-groups.npy"
        groups = np.load(grouped) if grouped.exists() else None
        splits[name] = Arrays(images, *rest, tuple(bad_images), tuple(names), cut_images, groups)
    ranges = {kind: (low, high) for kind, (low, high) in meta["ranges"].items()}
    sizes = {(height, width): count for height, width, count in meta["sizes"]}
    return Decoded(splits, meta["class_names"], meta["remarks"], ranges, sizes, from_dict(meta.get("geometry")))


def build(
    folder: Path,
    splits: dict[str, RawSplit],
    seen: Survey,
    remarks: Sequence[str] = (),
    *,
    image_size: int | None,
    skip_bad_images: bool,
    geometry: Geometry = MIDDLE,
) -> None:
    """Decode all splits into `folder`, which appears whole or not at all; nothing happens where it is there already.

    Args:
        folder: as `cache_folder` names it.
        splits: the encoded images.
        seen: what `survey` found in them.
        remarks: sentences about the splits, which are kept with them.
        image_size: side in pixels that images are brought to; None: they are all of one size.
        skip_bad_images: leave out what cannot be decoded or has no label.
        geometry: how they are brought to that size; without `image_size` they stay whole.

    Raises:
        UserError: images that cannot be decoded (all are named), of many sizes without `image_size`, or no room.
    """
    home = folder.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            if read(folder) is not None:  # another process was first
                return
            for outdated in filter(Path.is_dir, home.iterdir()):  # damaged, of data that changed, or of a killed build
                shutil.rmtree(outdated)
            staging = home / "unfinished"
            staging.mkdir()
            try:
                _build_into(staging, splits, seen, remarks, image_size, skip_bad_images, geometry)
                staging.rename(folder)
            finally:
                if staging.exists():
                    shutil.rmtree(staging)
    except OSError as error:
        raise UserError(
            f"cannot write the cache of decoded images in {home}: {error}; set HF_HOME to a folder with room"
        ) from error


def refuse_bad(bad_images: list[str]) -> None:
    """Raise UserError, which names them all, if there are any."""
    if bad_images:
        raise UserError(
            f"{len(bad_images)} of the images cannot be read or have no label; fix or remove them, or give "
            f"--skip-bad-images: {'; '.join(bad_images[:NAMED_AT_ONCE])}" + "; ..." * (len(bad_images) > NAMED_AT_ONCE)
        )


def _build_into(
    staging: Path,
    splits: dict[str, RawSplit],
    seen: Survey,
    remarks: Sequence[str],
    image_size: int | None,
    skip_bad_images: bool,
    geometry: Geometry,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless or refused here, in one line
        # Where no image can be opened, decoding says of each why.
        height, width = _common_size(seen.sizes.keys() or {(1, 1)}, image_size)
        shape = (height, width, 1 if seen.grey else 3)
        _check_room(staging, sum(split.length for split in splits.values()) * math.prod(shape))
        if image_size is None:
            geometry = replace(geometry, crop_pct=1.0)
        elif geometry.fit == "pad":
            geometry = filled(geometry, some_photos(splits["train"], shape[2], seen.ranges))
        written = {name: _decode(staging, name, split, shape, seen.ranges, geometry) for name, split in splits.items()}
    if not skip_bad_images:
        refuse_bad([line for _, bad_images, *_ in written.values() for line in bad_images])
    meta = {
        "class_names": splits["train"].class_names,
        "remarks": list(remarks),
        "ranges": seen.ranges,
        "geometry": geometry.as_dict(),
        "sizes": [[*size, count] for size, count in seen.sizes.items()],
        "splits": written,
    }
    (staging / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for path in [*staging.iterdir(), staging]:
        flush(path)


def _common_size(sizes: Collection[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    if image_size is not None:
        return image_size, image_size
    if len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"the images have {len(sizes)} sizes (height x width from {low[0]}x{low[1]} to {high[0]}x{high[1]}): "
            "give --image-size PIXELS to bring them to one"
        )
    return min(sizes)


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free * 0.95:
        raise UserError(
            f"decoded, the images take {wanted / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: "
            "make room, give a smaller --image-size, or set HF_HOME to a larger disk"
        )


def _decode(
    staging: Path, name: str, split: RawSplit, shape: tuple[int, int, int], ranges: Ranges, geometry: Geometry
) -> tuple[list[int], list[str], list[str], int]:
    """Write the arrays of a split; returns the images' (N, H, W, C), and `bad_images`, `names`, `cut_images` of it."""

    def decode(rows: range) -> tuple[list[int], list[np.ndarray], list[str], list[str], int]:
        good, pictures, bad, names, cut = [], [], [], [], 0
        for number, encoded in zip(rows, split.read(rows), strict=True):
            where = (encoded or {}).get("path") or f"{name}[{number}]"
            if split.labels[number] < 0 and name != UNLABELLED:
                bad.append(f"{where}: it has no label")
                continue
            try:
                with open_image(encoded) as image:
                    picture = to_array(image, shape[2], shape[:2], ranges, geometry)
                    cut += is_cut(image, ranges)
            except UNREADABLE as error:
                bad.append(f"{where}: {_complaint(error)}")
                continue
            pictures.append(picture)
            good.append(number)
            names.append(where)
        images = np.stack(pictures) if pictures else np.zeros((0, *shape), dtype=np.uint8)
        return good, [images, *describe(images)], bad, names, cut

    rows_at_once = max(1, min(CHUNK, CHUNK_BYTES // math.prod(shape)))
    kept, parts, complaints, names, cut_images = [], [], [], [], 0
    # Written from first to last and not through the memory map: on a full disk that is an error, not a signal.
    with (staging / f"{name}-images.raw").open("wb") as file:
        decoded = in_threads(decode, split.length, rows_at_once, f"decoding {name}")
        for good, (images, *rest), bad, named, cut in decoded:
            file.write(images)
            kept += good
            parts.append(rest)
            complaints += bad
            names += named
            cut_images += cut
    labels = np.asarray(split.labels, dtype=np.int64)[kept]
    arrays = (labels, *(np.concatenate(part) for part in zip(*parts, strict=True)))
    for array_name, array in zip(ARRAYS, arrays, strict=True):
        np.save(staging / f"{name}-{array_name}.npy", array)
    if split.groups is not None:
        np.save(staging / f"{name}-groups.npy", np.asarray(split.groups, dtype=np.int64)[kept])
    return [len(kept), *shape], complaints, names, cut_images


def _complaint(error: Exception) -> str:
    return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__


def describe(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `hashes` and `moments`, as `Arrays` has them, of uint8 (N, H, W, C).

    Among 100,000 images two unequal ones share a hash of 64 bits in one of 4 * 10^9 sets.
    """
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    hashes = np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)
    n, height, width, channels = images.shape
    values = images.reshape(n, height * width, channels)
    # Sums of whole numbers, so exact; converted on the way, as a copy of all would take eight times the room.
    sums = np.einsum("npc->nc", values, dtype=np.float64)
    squares = np.einsum("npc,npc->nc", values, values, dtype=np.float64)
    return hashes, np.stack([sums / 255, squares / 255**2], axis=2) / (height * width)

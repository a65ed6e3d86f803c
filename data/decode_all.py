"""All images of a data set are decoded once: to be kept so, or to know what they are where they stay encoded."""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from data import cache
from data.decode import UNREADABLE, complaint, open_image, to_array, upright_size
from data.geometry import MIDDLE, Geometry
from data.names import Names
from data.photo_crops import is_plain_jpeg
from data.pixel_range import Ranges, is_cut
from data.readers import UNLABELLED, RawSplit
from data.survey import CHUNK, Survey, filled, some_photos
from data.threads import in_threads

NAMED_AT_ONCE = 100  # bad images in a message
CHUNK_BYTES = 2**22  # of decoded pixels at once


@dataclass(frozen=True)
class Way:
    """How images are prepared: (height, width, channels), and the other arguments of `to_array`."""

    shape: tuple[int, int, int]
    ranges: Ranges
    geometry: Geometry


def build(
    folder: Path,
    splits: dict[str, RawSplit],
    seen: Survey,
    remarks: Sequence[str] = (),
    *,
    image_size: int | None,
    skip_bad_images: bool,
    geometry: Geometry = MIDDLE,
    live: bool = False,
    way: Way | None = None,
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
        live: keep all that is known of the images, and not their pixels.
        way: how they are prepared, whatever `image_size`, `geometry` and `seen` say; None: as follows from these.

    Raises:
        UserError: images that cannot be decoded (all are named), of many sizes without `image_size`, or no room.
    """

    def write(staging: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is either harmless or refused here, in one line
            done = way or _way(splits["train"], seen, image_size, geometry)
            if not live:
                _check_room(staging, sum(split.length for split in splits.values()) * math.prod(done.shape))
            written = {name: _decode(staging, name, split, done, live) for name, split in splits.items()}
        if not skip_bad_images:
            refuse_bad([line for about in written.values() for line in about["bad_images"]])
        meta = {
            "live": live,
            "class_names": splits["train"].class_names,
            "remarks": list(remarks),
            "label_sets": None if splits["train"].label_sets is None else splits["train"].label_sets.tolist(),
            "ranges": done.ranges,
            "geometry": done.geometry.as_dict(),
            "sizes": [[*size, count] for size, count in seen.sizes.items()],
            "splits": written,
            "grouped": [name for name, split in splits.items() if split.groups is not None],
        }
        (staging / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    cache.keep(folder, lambda: cache.read(folder, lambda: splits) is not None, write)


def refuse_bad(bad_images: list[str]) -> None:
    """Raise UserError, which names them all, if there are any."""
    if bad_images:
        raise UserError(
            f"{len(bad_images)} of the images cannot be read or have no label; fix or remove them, or give "
            f"--skip-bad-images: {'; '.join(bad_images[:NAMED_AT_ONCE])}" + "; ..." * (len(bad_images) > NAMED_AT_ONCE)
        )


def common_size(sizes: Collection[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """The (height, width) in pixels that images of these sizes are to have.

    Raises:
        UserError: they are of several, and nobody said which.
    """
    if image_size is not None:
        return image_size, image_size
    if not sizes:  # no image can be opened: decoding says of each why
        return 1, 1
    if len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"the images have {len(sizes)} sizes (height x width from {low[0]}x{low[1]} to {high[0]}x{high[1]}): "
            "give --image-size PIXELS to bring them to one"
        )
    return min(sizes)


def _way(train: RawSplit, seen: Survey, image_size: int | None, geometry: Geometry) -> Way:
    """How images are prepared, as follows from what they are and what is asked for."""
    shape = (*common_size(seen.sizes, image_size), seen.channels)
    return Way(shape, seen.ranges, _settled(geometry, train, seen, image_size))


def _settled(geometry: Geometry, train: RawSplit, seen: Survey, image_size: int | None) -> Geometry:
    """The geometry with what follows from the images."""
    if image_size is None:
        return replace(geometry, crop_pct=1.0)
    if geometry.fit == "pad":
        return filled(geometry, some_photos(train, seen.channels, seen.ranges))
    return geometry


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free * 0.95:
        raise UserError(
            f"decoded, the images take {wanted / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: "
            "make room, give --decode live or a smaller --image-size, or set HF_HOME to a larger disk"
        )


@dataclass
class _Chunk:
    """Some images of a split, decoded: those that can be, what is known of each, and of the others why not."""

    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    plain: list[bool] = field(default_factory=list)
    bad_images: list[str] = field(default_factory=list)
    cut_images: int = 0


def _decode(staging: Path, name: str, split: RawSplit, way: Way, live: bool) -> dict:
    """Write the arrays of a split; returns what else is kept of it."""

    def decode(rows: range) -> tuple[_Chunk, np.ndarray | None, tuple[np.ndarray, np.ndarray]]:
        chunk = _decode_some(name, split, rows, way)
        images = np.stack(chunk.pictures) if chunk.pictures else np.zeros((0, *way.shape), dtype=np.uint8)
        chunk.pictures = []
        return chunk, None if live else images, describe(images)

    rows_at_once = max(1, min(CHUNK, CHUNK_BYTES // math.prod(way.shape)))
    chunks, described = [], []
    # Written from first to last and not through the memory map: on a full disk that is an error, not a signal.
    with nullcontext() if live else (staging / f"{name}-images.raw").open("wb") as file:
        for chunk, images, known in in_threads(decode, split.length, rows_at_once, f"decoding {name}"):
            if file is not None:
                file.write(images)
            chunks.append(chunk)
            described.append(known)
    rows = np.array([row for chunk in chunks for row in chunk.rows], dtype=np.int64)
    names = Names.of(where for chunk in chunks for where in chunk.names)
    hashes, moments = (np.concatenate(part) for part in zip(*described, strict=True))
    arrays = {
        "labels": np.asarray(split.labels, dtype=np.int64)[rows],
        "hashes": hashes,
        "moments": moments,
        "name_text": names.text,
        "name_ends": names.ends,
        "sizes": np.array([size for chunk in chunks for size in chunk.sizes], dtype=np.int32).reshape(-1, 2),
    }
    if split.groups is not None:
        arrays["groups"] = np.asarray(split.groups, dtype=np.int64)[rows]
    if live:
        arrays["rows"] = rows
        arrays["plain"] = np.array([plain for chunk in chunks for plain in chunk.plain], dtype=bool)
    for array_name, array in arrays.items():
        np.save(staging / f"{name}-{array_name}.npy", array)
    return {
        "shape": [len(rows), *way.shape],
        "bad_images": [line for chunk in chunks for line in chunk.bad_images],
        "cut_images": sum(chunk.cut_images for chunk in chunks),
        "files": split.files,
    }


def _decode_some(name: str, split: RawSplit, rows: range, way: Way) -> _Chunk:
    chunk = _Chunk()
    for row, encoded in zip(rows, split.read(rows), strict=True):
        where = (encoded or {}).get("path") or f"{name}[{row}]"
        if split.labels[row] < 0 and name != UNLABELLED:
            chunk.bad_images.append(f"{where}: it has no label")
            continue
        try:
            with open_image(encoded) as image:
                size, plain = upright_size(image), is_plain_jpeg(image, way.shape[2])
                picture = to_array(image, way.shape[2], way.shape[:2], way.ranges, way.geometry)
                chunk.cut_images += is_cut(image, way.ranges)
        except UNREADABLE as error:
            chunk.bad_images.append(f"{where}: {complaint(error)}")
            continue
        chunk.pictures.append(picture)
        chunk.rows.append(row)
        chunk.names.append(where)
        chunk.sizes.append(size)
        chunk.plain.append(plain)
    return chunk


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

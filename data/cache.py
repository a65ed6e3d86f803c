"""Decoded splits, kept on disk as memory-mapped uint8 arrays: decoded once, shared by all processes of a machine."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.images import UNREADABLE, is_grey, open_image, to_array, upright_size
from data.sources import RawSplit
from engine.errors import UserError

FORMAT = 1  # part of every key: raise it when what is stored changes
ARRAYS = ("images", "labels", "hashes", "moments")


@dataclass(frozen=True)
class Arrays:
    """One decoded split.

    Attributes:
        images: uint8 (N, H, W, C), memory-mapped; C is 1 or 3.
        labels: int64 (N,).
        hashes: uint64 (N,), equal for images that are equal in every pixel.
        moments: float64 (N, C, 2), each image's mean and mean square per channel, of pixels in 0..1.
        bad_images: "where: why" of every sample that could not be decoded and was left out.
    """

    images: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray
    moments: np.ndarray
    bad_images: tuple[str, ...] = ()


def cache_root() -> Path:
    """The folder beside the `datasets` cache, found by the same environment variables without importing it."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = os.environ.get("HF_HOME", f"{home}/huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE", f"{hub}/datasets")).expanduser().parent / "sameloop"


def cache_folder(name: str, *parts: object) -> Path:
    """Where the decoded splits live that are made from these parts (a fingerprint and options)."""
    key = hashlib.sha256(json.dumps([FORMAT, *map(str, parts)]).encode()).hexdigest()[:16]
    return cache_root() / f"{name}-{key}"


def read(folder: Path) -> tuple[dict[str, Arrays], list[str]] | None:
    """Open a cached data set: its splits and class names, or None where it is not cached."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    splits = {}
    for name, bad_images in meta["bad_images"].items():
        # Mode "c" (copy on write) because torch warns about arrays that it could not write to.
        images = np.load(folder / f"{name}-images.npy", mmap_mode="c")
        rest = [np.load(folder / f"{name}-{array}.npy") for array in ARRAYS[1:]]
        splits[name] = Arrays(images, *rest, bad_images=tuple(bad_images))
    return splits, meta["class_names"]


def build(folder: Path, splits: dict[str, RawSplit], *, image_size: int | None, skip_bad_images: bool) -> None:
    """Decode all splits into `folder`, which appears whole or not at all.

    Raises:
        UserError: images that cannot be decoded (all are named), of many sizes without `image_size`, or no room.
    """
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        staging.mkdir(parents=True)
        _build_into(staging, splits, image_size, skip_bad_images)
        try:
            staging.rename(folder)
        except OSError:
            if not (folder / "meta.json").exists():  # else another machine on this disk was first: use its copy
                raise
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"cannot write the cache of decoded images in {folder.parent}: {error}; set HF_HOME") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _build_into(staging: Path, splits: dict[str, RawSplit], image_size: int | None, skip_bad_images: bool) -> None:
    headers = {name: _read_headers(name, split) for name, split in splits.items()}
    good = [header for split_headers in headers.values() for header in split_headers if not isinstance(header, str)]
    if not good:
        raise UserError("none of the images can be read: " + "; ".join(headers["train"][:3]))
    channels = 1 if all(grey for grey, _ in good) else 3
    height, width = _common_size({size for _, size in good}, image_size)
    _check_room(staging, len(good) * height * width * channels)
    bad_images = {}
    for name, split in splits.items():
        readable = [number for number, header in enumerate(headers[name]) if not isinstance(header, str)]
        bad = [header for header in headers[name] if isinstance(header, str)]
        shape = (len(readable), height, width, channels)
        bad += _decode(staging, name, split, readable, shape)
        bad_images[name] = sorted(bad)
    found = [line for lines in bad_images.values() for line in lines]
    if found and not skip_bad_images:
        raise UserError(
            f"{len(found)} of the images cannot be read; mend or remove them, or give --skip-bad-images: "
            + "; ".join(found)
        )
    meta = {"class_names": splits["train"].class_names, "bad_images": bad_images}
    (staging / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_headers(name: str, split: RawSplit) -> list[tuple[bool, tuple[int, int]] | str]:
    """For each sample (grey?, (height, width)), or in words why it cannot be opened."""

    def header(number: int) -> tuple[bool, tuple[int, int]] | str:
        encoded = split.get(number)
        try:
            with open_image(encoded) as image:
                return is_grey(image), upright_size(image)
        except UNREADABLE as error:
            return _complaint(name, number, encoded, error)

    return list(_in_threads(header, range(split.length), f"reading {name}"))


def _complaint(name: str, number: int, encoded: dict, error: Exception) -> str:
    where = encoded.get("path") or f"{name}[{number}]"
    reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return f"{where}: {reason}"


def _common_size(sizes: set[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    if image_size is not None:
        return image_size, image_size
    if len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"the images have {len(sizes)} sizes (height x width from {low[0]}x{low[1]} to {high[0]}x{high[1]}): "
            "give --image-size PIXELS to bring them to one"
        )
    return sizes.pop()


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free * 0.95:
        raise UserError(
            f"decoded, the images take {wanted / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: "
            "make room, give a smaller --image-size, or set HF_HOME to a larger disk"
        )


def _decode(staging: Path, name: str, split: RawSplit, readable: list[int], shape: tuple[int, ...]) -> list[str]:
    """Write the arrays of one split; returns what could not be decoded, which is left out of them."""
    n, height, width, channels = shape
    images = np.lib.format.open_memmap(staging / f"{name}-images.npy", mode="w+", dtype=np.uint8, shape=shape)
    labels = np.asarray(split.labels, dtype=np.int64)[readable]
    hashes = np.zeros(n, dtype=np.uint64)
    moments = np.zeros((n, channels, 2))
    bad = {}

    def decode(row: int) -> None:
        encoded = split.get(readable[row])
        try:
            with open_image(encoded) as image:
                images[row] = pixels = to_array(image, channels, (height, width))
        except UNREADABLE as error:
            bad[row] = _complaint(name, readable[row], encoded, error)
            return
        hashes[row] = pixel_hash(pixels)
        unit = pixels.reshape(-1, channels) / 255.0
        moments[row] = np.stack([unit.mean(0), (unit * unit).mean(0)], axis=1)

    for _ in _in_threads(decode, range(n), f"decoding {name}"):
        pass
    images.flush()
    keep = np.setdiff1d(np.arange(n), list(bad))
    if bad:
        np.save(staging / f"{name}-images.npy.kept", images[keep])
        (staging / f"{name}-images.npy.kept.npy").replace(staging / f"{name}-images.npy")
    for array_name, array in zip(ARRAYS[1:], (labels, hashes, moments), strict=True):
        np.save(staging / f"{name}-{array_name}.npy", array[keep])
    return list(bad.values())


def pixel_hash(pixels: np.ndarray) -> int:
    """64 bits that are equal for equal pixels; among 100,000 images two unequal ones meet once in 4 * 10^9 sets."""
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "little")


def _in_threads(function: Callable, numbers: range, title: str) -> Iterator:
    """Pillow lets other threads run while it decodes, so threads serve as well as processes and share the array."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(range(0, len(numbers), 1000), desc=title, unit="k", disable=None, leave=False):
            yield from pool.map(function, numbers[start : start + 1000])

"""A source becomes splits to train on: decoded once and kept, or indexed once and decoded at every step."""

import functools
import importlib.util
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.errors import UserError
from common.files import deepest_existing
from data import cache, decode_all, digits
from data.arrays import Decoded
from data.geometry import MIDDLE, Geometry
from data.label_files import LabelFile
from data.readers import RawSplit, Selection, about_folder, read_labelled_splits, read_raw_splits
from data.sources import Source
from data.subsets import few
from data.survey import survey

AUTO = "auto"  # for --decode: once where there is room, else at every step
Raw = Callable[[], tuple[dict[str, RawSplit], list[str]]]  # opened once, when it is first asked for


@dataclass(frozen=True)
class Wanted:
    """How images are to be prepared.

    Attributes:
        decode: "cache", "live" or AUTO.
        image_size: side in pixels that images of other sizes are brought to; None: they stay as they are.
        default_size: asked for that side where they are of many sizes; None: they are refused.
        geometry: how they are brought to it.
        rows: of each split no more than so many.
        skip_bad_images: leave out what cannot be decoded or has no label.
        way: exactly how they are prepared, as those of a trained model; then `image_size` is None, and `geometry` of
            no use.
    """

    decode: str = "cache"
    image_size: int | None = None
    default_size: Callable[[], int] | None = None
    geometry: Geometry = MIDDLE
    rows: int | None = None
    skip_bad_images: bool = False
    way: decode_all.Way | None = None


def prepare(
    source: Source,
    selection: Selection,
    table: LabelFile | None,
    wanted: Wanted,
    opened: tuple[dict[str, RawSplit], list[str]] | None = None,
    *more: str,
) -> Decoded:
    """The splits of a source as `wanted`.

    Args:
        source: where they are.
        selection: of a table of images.
        table: of the labels of a folder of images, where they are in one.
        opened: the splits and remarks on them, where they have been opened.
        more: what else tells them from other splits of the source.

    Raises:
        UserError: whatever the user can put right; see the messages.
    """
    if source.kind == "digits" and table is not None:
        raise UserError("--labels is for a folder of images: give one by --dataset, or leave it out")
    if source.kind in ("digits", "tree") and table is None:
        selection.refuse(source.name)
    if source.kind == "digits":
        if wanted.decode == "live":
            raise UserError("--decode live is for encoded images, which the built-in digits are not: leave it out")
        return digits.load(wanted.image_size, wanted.geometry, wanted.rows)
    raw = functools.cache(lambda: opened or _opened(source, selection, table, wanted))
    folder = _folders(source, selection, table, wanted, raw, *more)
    decoded = _found(folder, wanted, raw) or _built(folder, wanted, raw)
    if not wanted.skip_bad_images:  # it may have been built by a run that was told to skip
        decode_all.refuse_bad([line for split in decoded.splits.values() for line in split.bad_images])
    # Files that are no images leave what is kept as it is: what is said of them is not kept there.
    more = about_folder(source) if table is None else []
    return decoded._replace(remarks=[*decoded.remarks, *more])


def _opened(
    source: Source, selection: Selection, table: LabelFile | None, wanted: Wanted
) -> tuple[dict[str, RawSplit], list[str]]:
    splits, about_source = (
        read_raw_splits(source, selection)
        if table is None
        else read_labelled_splits(source, table, wanted.skip_bad_images)
    )
    return few(splits, wanted.rows), about_source


def _folders(
    source: Source, selection: Selection, table: LabelFile | None, wanted: Wanted, raw: Raw, *more: str
) -> Callable[[str, int | None], Path]:
    """(way, side in pixels) -> where what is prepared so is kept."""
    fingerprint = source.fingerprint or raw()[0]["train"].fingerprint
    if table is not None:
        fingerprint += table.fingerprint()

    def folder(way: str, side: int | None) -> Path:
        choices = [source.where, selection, side, wanted.rows]
        choices += [] if wanted.geometry == MIDDLE else [wanted.geometry]
        choices += [] if table is None else [table.path]
        choices += [way] if way == "live" else []
        choices += [] if wanted.way is None else [wanted.way]
        choices += more
        return cache.cache_folder(source.name, fingerprint, *choices)

    return folder


def _found(folder: Callable[[str, int | None], Path], wanted: Wanted, raw: Raw) -> Decoded | None:
    """What an earlier run has left, if it is prepared in a way that is wanted."""

    def read(way: str) -> Decoded | None:
        return _at_its_size(lambda side: cache.read(folder(way, side), lambda: raw()[0]), wanted)

    if wanted.decode != "live":
        decoded = read("cache")
        if decoded is not None:
            return _explained(decoded, wanted)
        if wanted.decode == "cache":
            return None
    index = read("live")
    if index is None or wanted.decode == "live":
        return index
    room = _no_room_for(_decoded_bytes(index))
    return _explained(index, wanted, room) if room else None


def _at_its_size(read: Callable[[int | None], Decoded | None], wanted: Wanted) -> Decoded | None:
    """What is kept of a data set, at `image_size`, or as it is, or if it is of many sizes at the default one."""
    found = read(wanted.image_size)
    if found is None and wanted.image_size is None and wanted.default_size is not None:
        found = read(wanted.default_size())
        if found is not None and len(found.sizes) < 2:  # of one size, which somebody else asked to be brought to this
            return None
    return found


def _built(folder: Callable[[str, int | None], Path], wanted: Wanted, raw: Raw) -> Decoded:
    splits, about_source = raw()
    seen = survey(splits)
    side = wanted.image_size
    if side is None and wanted.default_size is not None and len(seen.sizes) > 1:
        side = wanted.default_size()
    shape = wanted.way.shape if wanted.way else (*decode_all.common_size(seen.sizes, side), seen.channels)
    decoded_bytes = sum(split.length for split in splits.values()) * math.prod(shape)
    room = _no_room_for(decoded_bytes) if wanted.decode == AUTO else ""
    way = wanted.decode if wanted.decode != AUTO else "live" if room else "cache"
    if way == "live" and importlib.util.find_spec("simplejpeg") is None:
        raise UserError("to decode images at every step simplejpeg is needed: pip install simplejpeg")
    decode_all.build(
        folder(way, side),
        splits,
        seen,
        about_source,
        image_size=side,
        skip_bad_images=wanted.skip_bad_images,
        geometry=wanted.geometry,
        live=way == "live",
        way=wanted.way,
    )
    return _explained(cache.read(folder(way, side), lambda: splits), wanted, room)


def _decoded_bytes(decoded: Decoded) -> int:
    return sum(math.prod(split.images.shape) for split in decoded.splits.values())


def _no_room_for(decoded_bytes: int) -> str:
    """Where images of so many bytes would take more than half of the room, in words; empty where they do not."""
    room = {
        "memory": psutil.virtual_memory().available,
        "disk": shutil.disk_usage(deepest_existing(cache.cache_root().absolute())).free,
    }
    of, free = min(room.items(), key=lambda item: item[1])
    return f"{free / 1e9:.1f} GB of free {of}" if decoded_bytes > free / 2 else ""


def _explained(decoded: Decoded, wanted: Wanted, room: str = "") -> Decoded:
    """With what AUTO came to, and why: of photos, as of small images nobody asks.

    `room` is what `_no_room_for` said, where they are decoded at every step.
    """
    size, choice = f"{_decoded_bytes(decoded) / 1e9:.1f} GB", ""
    if room:
        choice = f"decoded at every step: {size} of pixels are more than half of {room}; --decode cache keeps them"
    elif wanted.decode == AUTO and len(decoded.sizes) > 1:
        choice = f"decoded once and kept, {size}; --decode live decodes at every step"
    return decoded._replace(choice=choice)

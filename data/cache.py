"""What is known of a data set, kept on disk for all processes of a machine: its pixels too, unless they stay encoded.

Decoded images are memory-mapped uint8 arrays.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from common.errors import UserError
from common.files import flush
from data.arrays import Arrays, Decoded
from data.geometry import from_dict
from data.live import LiveImages, Rows
from data.names import Names
from data.readers import RawSplit

FORMAT = 8  # part of every key: raise it when what is stored changes
ARRAYS = ("labels", "hashes", "moments", "name_text", "name_ends", "sizes")  # beside the images
LIVE_ARRAYS = ("rows", "plain")  # in their place


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


def read(folder: Path, encoded: Callable[[], dict[str, RawSplit]] = dict) -> Decoded | None:
    """Open a data set that is kept, or None where it is not, or has lost a part.

    Args:
        folder: as `cache_folder` names it.
        encoded: opens the encoded images of each split: asked where they stay so, and are no files of their own.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        more = LIVE_ARRAYS if meta["live"] else ()
        arrays = {
            name: {array: np.load(folder / f"{name}-{array}.npy") for array in (*ARRAYS, *more)}
            for name in meta["splits"]
        }
        maps = {} if meta["live"] else {name: _mapped(folder, name, about) for name, about in meta["splits"].items()}
        groups = {name: np.load(folder / f"{name}-groups.npy") for name in meta["grouped"]}
    except (OSError, ValueError, KeyError, EOFError):  # gone, or cut short: whoever tidies a cache does not ask
        return None
    ranges = {kind: (low, high) for kind, (low, high) in meta["ranges"].items()}
    geometry = from_dict(meta["geometry"])
    splits = {}
    for name, about in meta["splits"].items():
        labels, hashes, moments, text, ends, sizes, *rest = arrays[name].values()
        names = Names(text, ends)
        if meta["live"]:
            rows, plain = rest
            of_file = names.__getitem__ if about["files"] else Rows(encoded()[name].read, rows)
            images = LiveImages(of_file, tuple(about["shape"]), sizes, plain, ranges, geometry)
        else:
            images = maps[name]
        more = (about["bad_images"], names, about["cut_images"], groups.get(name), sizes)
        splits[name] = Arrays(images, labels, hashes, moments, *more)
    seen = {(height, width): count for height, width, count in meta["sizes"]}
    sets = None if meta.get("label_sets") is None else np.array(meta["label_sets"], dtype=np.uint8)
    return Decoded(splits, meta["class_names"], meta["remarks"], ranges, seen, geometry, label_sets=sets)


def _mapped(folder: Path, name: str, about: dict) -> np.ndarray:
    shape = tuple(about["shape"])
    # Mode "c" (copy on write) because torch warns about arrays that it could not write to.
    return np.memmap(folder / f"{name}-images.raw", np.uint8, "c", shape=shape) if shape[0] else np.zeros(shape, "u1")


def keep(folder: Path, is_there: Callable[[], bool], write: Callable[[Path], None]) -> None:
    """Have `folder` appear whole or not at all, as `write` fills it; nothing happens where it is there already.

    Raises:
        UserError: there is no room, or it may not be written.
    """
    home = folder.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            if is_there():  # another process was first
                return
            for outdated in filter(Path.is_dir, home.iterdir()):  # damaged, of data that changed, or of a killed build
                shutil.rmtree(outdated)
            staging = home / "unfinished"
            staging.mkdir()
            try:
                write(staging)
                for path in [*staging.iterdir(), staging]:
                    flush(path)
                staging.rename(folder)
            finally:
                if staging.exists():
                    shutil.rmtree(staging)
    except OSError as error:
        raise UserError(
            f"cannot write the cache of images in {home}: {error}; set HF_HOME to a folder with room"
        ) from error

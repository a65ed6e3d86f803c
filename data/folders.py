"""Image files in folders, found without importing anything heavy."""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import is_folder

# Formats that Pillow recognises but has no decoder of its own for.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
REASONS_AT_ONCE = 6  # in a message


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in small letters, of the formats that Pillow decodes."""
    from PIL import Image  # its plugins take a moment to load, and many data sets are no files of images

    known = Image.registered_extensions()
    return frozenset(s for s, kind in known.items() if kind in Image.OPEN and kind not in NOT_DECODED)


@dataclass(frozen=True)
class Folder:
    """What a folder holds, hidden files and folders (".name") apart.

    Attributes:
        path: of the folder.
        entries: names of files, and folders, in the order of their names. Of a million files paths would take a
            gigabyte: they are made as they are asked for.
        passed_over: how many files directly in it are neither, by reason: broken links, files in folders "__name".
    """

    path: Path
    entries: tuple["str | Folder", ...]
    passed_over: Counter[str] = field(default_factory=Counter)

    def folders(self) -> list["Folder"]:
        """The folders directly in it."""
        return [entry for entry in self.entries if isinstance(entry, Folder)]

    def files(self) -> Iterator[Path]:
        """All files below it, in the order of their paths."""
        return map(Path, self.file_names())

    def file_names(self) -> Iterator[str]:
        """The same as text, which is a third of the work where there are very many."""
        prefix = str(self.path / "_")[:-1]
        for entry in self.entries:
            if isinstance(entry, Folder):
                yield from entry.file_names()
            else:
                yield prefix + entry

    def images(self) -> Iterator[Path]:
        """All files below it that have an image's suffix, in the order of their paths."""
        return (Path(name) for name in self.file_names() if is_image(name))

    def count_images(self) -> int:
        """How many images there are below it."""
        return sum(map(is_image, self.file_names()))

    def holds_images(self) -> bool:
        """Whether there is any image below it."""
        return any(map(is_image, self.file_names()))

    def files_here(self) -> list[Path]:
        """The files directly in it."""
        return [self.path / entry for entry in self.entries if isinstance(entry, str)]

    def images_here(self) -> list[Path]:
        """The images directly in it."""
        return [path for path in self.files_here() if is_image(path)]

    def left_out(self) -> Counter[str]:
        """How many of the files below it are no images, by suffix or another reason."""
        counts = Counter(self.passed_over)
        for entry in self.entries:
            if isinstance(entry, Folder):
                counts += entry.left_out()
            elif not is_image(entry):
                counts[Path(entry).suffix.lower() or "without suffix"] += 1
        return counts


def is_image(path: str | Path) -> bool:
    """Whether a file's name has the suffix of an image."""
    _, dot, suffix = str(path).rpartition(".")
    return dot + suffix.lower() in image_suffixes()


def left_out_in_words(left_out: Counter[str]) -> str:
    """Such as "13 files left out (.heic 12, broken links 1)"; empty where there are none."""
    total = left_out.total()
    if not total:
        return ""
    counts = [f"{reason} {count:,}" for reason, count in left_out.most_common(REASONS_AT_ONCE)]
    more = ", ..." * (len(left_out) > REASONS_AT_ONCE)
    return f"{total:,} file{'s' * (total > 1)} left out ({', '.join(counts)}{more})"


def walk(path: Path, above: tuple[Path, ...] = ()) -> Folder:
    """Look through a folder and all folders in it.

    Links to folders are followed, but for one to a folder that holds it (`above`, resolved), which would never end.

    Raises:
        UserError: a folder that may not be looked into.
    """
    above = (*above, path.resolve())
    entries: list[str | Folder] = []
    passed_over: Counter[str] = Counter()
    for name, kind in _entries(path):
        if kind == "folder" and (path / name).resolve() in above:
            continue
        inside = walk(path / name, above) if kind == "folder" else None
        if kind == "broken":
            passed_over["broken links"] += 1
        elif inside and name.startswith("__"):  # what archives and Python keep for themselves
            passed_over[f"in {name}/"] += sum(1 for _ in inside.files())
        else:
            entries.append(inside or name)
    return Folder(path, tuple(entries), +passed_over)


def _entries(folder: Path) -> list[tuple[str, str]]:
    """(name, "folder", "file" or "broken") of all in a folder but what is hidden, in the order of the names."""
    try:
        with os.scandir(folder) as found:  # which knows what is a folder without asking the disk for each
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
        return [(e.name, "folder" if e.is_dir() else "file" if e.is_file() else "broken") for e in entries]
    except OSError as error:
        raise UserError(f"cannot look into {folder}: {error.strerror}; make it readable, or move it away") from error


def find_images(paths: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """The files named (whether they exist or not) and the images in the folders named; and what is left out of these.

    Raises:
        UserError: a folder holds no image.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in map(Path, paths):
        if not is_folder(path):
            found.append(path)
            continue
        folder = walk(path)
        images = list(folder.images())
        if not images:
            raise UserError(f"the folder {path} holds no image{in_brackets(folder.left_out())}")
        found += images
        left_out += folder.left_out()
    return found, left_out


def in_brackets(left_out: Counter[str]) -> str:
    """What was left out, as an addition to a message."""
    words = left_out_in_words(left_out)
    return f" ({words})" if words else ""

"""Image files in folders, found without importing anything heavy."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import UserError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, in the order of the names, but for what systems and tools keep for themselves."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    except OSError as error:
        raise UserError(f"cannot look into {folder}: {error.strerror}; mend its rights, or move it away") from error


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    return [path for path in _entries(folder) if path.is_dir()]


def files_in(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, hidden ones left out, in the order of their paths.

    Links to folders are followed, but for one to a folder that holds it (`above`, resolved), which would never end.

    Raises:
        UserError: a folder that may not be looked into.
    """
    real = folder.resolve()
    if real in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from files_in(path, (*above, real))
        elif path.is_file():
            yield path


def images_in(folder: Path) -> list[Path]:
    """All files below a folder that have an image's suffix, hidden ones left out, in the order of their paths."""
    return [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES]


def find_images(places: Sequence[str]) -> list[Path]:
    """The files named (whether they exist or not) and the images in the folders named.

    Raises:
        UserError: a folder holds no image.
    """
    found: list[Path] = []
    for place in map(Path, places):
        inside = images_in(place) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"the folder {place} holds no image ({', '.join(sorted(SUFFIXES))})")
        found += inside
    return found

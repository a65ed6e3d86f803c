"""Image files in folders, found without importing anything heavy."""

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether the file, or a folder on the way to it from `root`, is one that systems and tools keep for themselves."""
    return any(part.startswith((".", "__")) for part in path.relative_to(root).parts)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path, folder)]


def images_in(folder: Path) -> list[Path]:
    """All files below a folder that have an image's suffix, hidden ones left out, in the order of their paths."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden(path, folder)
    ]


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

"""Files that are kept only when all of them are made and checked."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.files import flush


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A temporary folder within `folder`, which is made, and removed again where nothing was put into it.

    Raises:
        UserError: no room or no right to write there.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unchecked-", dir=folder) as staged:
            yield Path(staged)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror or error}; give a folder with room") from error
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def put_in_place(staged: Path, folder: Path) -> list[Path]:
    """Move all files below `staged` to the same places below `folder`; returns these."""
    placed = []
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = folder / path.relative_to(staged)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        placed.append(target)
    flush(folder)
    return placed

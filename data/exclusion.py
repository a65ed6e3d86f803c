"""Training images that are left out by name: --exclude, a list such as clean.py writes."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.remarks import named
from data.subsets import Subset

NAME, FLAGGED = "file", "flagged"  # columns
SAYS_YES = "yes"


def read_flagged(path: str) -> list[str]:
    """The names in the column "file" of a CSV file whose column "flagged" says yes.

    Raises:
        UserError: it cannot be read, lacks a column, or says something else than yes or no.
    """
    flagged = []
    try:
        with Path(path).open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            missing = [column for column in (NAME, FLAGGED) if column not in (rows.fieldnames or ())]
            if missing:
                raise UserError(
                    f"--exclude {path}: there is no column {' or '.join(missing)}: give a list as clean.py writes it"
                )
            for row in rows:
                answer = (row[FLAGGED] or "").strip().lower()
                if answer not in (SAYS_YES, "no"):
                    raise UserError(f"--exclude {path}: line {rows.line_num}: {FLAGGED} says {answer!r}, not yes or no")
                if answer == SAYS_YES:
                    flagged.append(row[NAME])
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--exclude {path}: {reason}; give a list as clean.py writes it") from error
    return flagged


def exclude(train: Subset, path: str) -> tuple[Subset, str]:
    """`train` without the images that the list in the file `path` flags, and a sentence that counts them.

    Those of the same split that are validated or tested on stay there, so that runs with and without compare.

    Raises:
        UserError: as `read_flagged`; or a name is of no image of the split, or of several.
    """
    names = set(read_flagged(path))
    every = Subset(train.arrays, np.arange(len(train.arrays.labels))).names()
    counts = Counter(name for name in every if name in names)
    unknown = sorted(names - counts.keys())
    if unknown:
        raise UserError(f"--exclude {path}: no training image is called {named(unknown)}: correct the list")
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise UserError(f"--exclude {path}: several images are called {named(repeated)}: give them names of their own")
    rows = np.array([row for row, name in enumerate(every) if name in names], dtype=np.int64)
    left_out = np.isin(train.ids, rows)
    count, others = int(left_out.sum()), len(rows) - int(left_out.sum())
    sentence = f"{count:,} images of train are left out by {Path(path).name}"
    sentence += f"; {others:,} others that it flags are validated or tested on, and stay" if others else ""
    return Subset(train.arrays, train.ids[~left_out]), sentence

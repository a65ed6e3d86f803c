"""Labels in a table beside the images: --labels FILE, or the metadata.csv that `datasets` knows."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from data import label_sets
from data.class_folders import same_form
from data.folders import Folder
from data.split_names import named_splits, splits_in

if TYPE_CHECKING:
    import pandas

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Columns that are taken where none is named: the first of these that there is.
IMAGE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "image_id", "id", "id_code")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
NAMED_AT_ONCE = 20  # faults in a message
BETWEEN = "\x1f"  # several labels of a row: what no name has


@dataclass(frozen=True)
class LabelFile:
    """A table of labels, and which columns of it to read.

    Attributes:
        path: .csv, .tsv, .jsonl or .parquet.
        image, label: columns; None: the first of IMAGE_COLUMNS and LABEL_COLUMNS that there is.
        split: the column that says what is train, validation and test; None: there is none.
        group: the column of what belongs together (a patient, a video), which is never split; None: there is none.
        several: whether an image has several labels: in a cell, or one in each of several columns of 0 and 1.
    """

    path: str
    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    several: bool = False

    def fingerprint(self) -> str:
        """Changes when the table does, or what is read of it."""
        columns = f"{self.image}\0{self.label}\0{self.split}\0{self.group}\0"
        try:
            return hashlib.sha256(columns.encode() + Path(self.path).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"--labels {self.path}: {error.strerror or error}; give a table of labels") from error


@dataclass(frozen=True)
class Row:
    """An image and what the table says of it.

    Attributes:
        line: of the table, as an editor counts them.
        path: of the image.
        label: None where the table is empty there, or says -1; of several all, as `labels_in` reads them.
        split, group: as written; empty where there is no such column.
    """

    line: int
    path: Path
    label: str | None
    split: str
    group: str


@dataclass(frozen=True)
class Labelled:
    """What a table and a folder of images come to.

    Attributes:
        splits: the rows of "train", and of "validation" and "test" where the table names such.
        remarks: what was left out, in sentences.
    """

    splits: dict[str, list[Row]]
    remarks: list[str]


def find_metadata(folder: Folder) -> LabelFile | None:
    """The metadata.csv that lies directly in a folder of images, if it has a column of labels."""
    for path in (path for path in folder.files_here() if path.name in METADATA):
        columns = list(_read(path))
        label = next((name for name in LABEL_COLUMNS if name in columns), None)
        if "file_name" in columns and label:
            return LabelFile(str(path), "file_name", label, "split" if "split" in columns else None)
    return None


def read_label_file(file: LabelFile, folder: Folder, skip_bad_images: bool) -> Labelled:
    """Match the rows of a table with the images of a folder.

    Images are found by their path from the folder or from the table, else by their name, with or without its suffix,
    where no other has it.

    Raises:
        UserError: a column or an image is not there, an image has two labels or none (with `skip_bad_images` rows
            without a label or an image are left out), or a group lies in two splits; with the lines.
    """
    table = _read(Path(file.path))
    rows, faults = _rows(file, table, folder)
    conflicts, kept, repeated = _without_repeats(rows)
    splits, left_out = _by_split(file, kept)
    # Of a test split without any label the images are predicted, not scored.
    hidden = "test" in splits and all(row.label is None for row in splits["test"])
    scored = [row for name, own in splits.items() if not (hidden and name == "test") for row in own]
    faults += [f"line {row.line}: no label" for row in scored if row.label is None]
    if skip_bad_images:
        splits = {
            name: own if hidden and name == "test" else [row for row in own if row.label is not None]
            for name, own in splits.items()
        }
        left_out += [f"{len(faults)} rows of {Path(file.path).name} without an image or a label"] if faults else []
        faults = []
    faults += conflicts + _straddling(splits)
    if faults:
        more = f"; and {len(faults) - NAMED_AT_ONCE} more" if len(faults) > NAMED_AT_ONCE else ""
        raise UserError(f"--labels {file.path}: {'; '.join(faults[:NAMED_AT_ONCE])}{more}")
    unnamed = sum(1 for _ in folder.images()) - len({row.path for row in rows})
    left_out += [f"{unnamed:,} images that {Path(file.path).name} does not name"] if unnamed else []
    remarks = [f"left out: {', '.join(left_out)}"] if left_out else []
    remarks += [f"{repeated} rows of {Path(file.path).name} name an image again"] if repeated else []
    return Labelled(splits, remarks)


def _read(path: Path) -> "pandas.DataFrame":
    """The table as a pandas.DataFrame of strings; empty where there is no value."""
    import pandas  # a second, for the few data sets that have a table

    # Empty lines are kept, so that rows can be numbered as an editor does.
    as_text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    readers = {
        ".csv": lambda: pandas.read_csv(path, **as_text),
        ".tsv": lambda: pandas.read_csv(path, **as_text, sep="\t"),
        ".jsonl": lambda: pandas.read_json(path, lines=True, dtype=False),
        ".parquet": lambda: pandas.read_parquet(path),
    }
    if path.suffix.lower() not in readers:
        raise UserError(f"--labels {path}: give a table in a .csv, .tsv, .jsonl or .parquet file")
    try:
        table = readers[path.suffix.lower()]()
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"--labels {path}: cannot be read: {reason}") from error
    return table.map(_plain)


def _plain(value: object) -> str:
    """A value as it is written: whole numbers without a fraction, lists with | between, nothing for what is missing."""
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        return "|".join(map(str, value if isinstance(value, (list, tuple)) else value.tolist()))
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _column(file: LabelFile, columns: list[str], option: str, wanted: str | None, usual: tuple[str, ...]) -> str:
    if wanted is None:
        found = next((name for name in usual if name in columns), None)
        if found is None:
            raise UserError(f"--labels {file.path}: give {option}, one of {', '.join(columns)}")
        return found
    label_sets.check_column(option, wanted, columns, file.path)
    return wanted


def _rows(file: LabelFile, table: "pandas.DataFrame", folder: Folder) -> tuple[list[Row], list[str]]:
    """(the rows whose image there is, what is wrong with the others)."""
    columns = list(map(str, table.columns))
    image = _column(file, columns, "--image-column", file.image, IMAGE_COLUMNS)
    labels = (_several if file.several else _single)(file, table, image)
    split = file.split and _column(file, columns, "--split-column", file.split, ())
    group = file.group and _column(file, columns, "--group-column", file.group, ())
    find = _Finder(folder, Path(file.path).parent)
    first_line = 1 if file.path.endswith((".jsonl", ".parquet")) else 2
    rows, faults = [], []
    for line, (label, (_, row)) in enumerate(zip(labels, table.iterrows(), strict=True), first_line):
        if not any(row):
            continue
        found = find(row[image])
        if len(found) != 1:
            which = f"several images, {found[0]} and {found[1]}" if found else f"no image {row[image]!r}"
            faults.append(f"line {line}: {which}")
            continue
        rows.append(Row(line, found[0], label, row[split] if split else "", row[group] if group else ""))
    return rows, faults


def _single(file: LabelFile, table: "pandas.DataFrame", image: str) -> list[str | None]:
    """The label of each row."""
    columns = list(map(str, table.columns))
    others = tuple(name for name in columns if name != image)
    usual = LABEL_COLUMNS if len(others) != 1 else others
    column = _column(file, columns, "--label-column", file.label, usual)
    return [None if value in ("", "-1") else same_form(value) for value in table[column]]


def _several(file: LabelFile, table: "pandas.DataFrame", image: str) -> list[str | None]:
    """The labels of each row, as `labels_in` reads them."""
    others = {image, file.split, file.group}
    columns = [name for name in map(str, table.columns) if name not in others]
    named = label_sets.named_columns(file.label, columns, file.path)
    usual = next((name for name in label_sets.LIST_COLUMNS if name in columns), None)
    if not named and usual is None:
        named = [name for name in columns if label_sets.are_flags(table[name])]
        if len(named) < 2:
            raise UserError(f"--labels {file.path}: give --label-column, some of {', '.join(columns)}")
    if len(named) > 1:
        of_rows = label_sets.from_flags({name: table[name] for name in named}, file.path)
    else:
        of_rows = label_sets.cut_cells(table[named[0] if named else usual])
    return [None if labels is None else BETWEEN.join(sorted(labels)) for labels in of_rows]


def labels_in(row: Row) -> label_sets.Labels | None:
    """The labels of a row that may have several."""
    return None if row.label is None else frozenset(filter(None, row.label.split(BETWEEN)))


class _Finder:
    """Finds the images that a table names."""

    def __init__(self, folder: Folder, beside: Path) -> None:
        self.roots = (folder.path, beside.resolve())
        self.images = set(folder.images())
        self.by_name: dict[str, list[Path]] = {}
        for path in folder.images():
            for name in {path.name, path.stem}:
                self.by_name.setdefault(name, []).append(path)

    def __call__(self, written: str) -> list[Path]:
        """All images that it may mean."""
        if not written:
            return []
        for root in self.roots:
            if root / written in self.images:
                return [root / written]
        return self.by_name.get(Path(written).name, [])


def _without_repeats(rows: list[Row]) -> tuple[list[str], list[Row], int]:
    """(images that have two labels, each image's first row, how many say the same again)."""
    first: dict[Path, Row] = {}
    conflicts, repeated = [], 0
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is row:
            continue
        if (other.label, other.split, other.group) == (row.label, row.split, row.group):
            repeated += 1
        else:
            conflicts.append(f"lines {other.line} and {row.line} do not agree on {row.path.name}")
    return conflicts, list(first.values()), repeated


def _by_split(file: LabelFile, rows: list[Row]) -> tuple[dict[str, list[Row]], list[str]]:
    """(the rows of each split, what is left out as it is of none)."""
    if file.split is None:
        return {"train": rows}, []
    names = list(dict.fromkeys(row.split for row in rows))
    known = named_splits([name for name in names if splits_in(name)], f"{file.path}, column {file.split},")
    if "train" not in known:
        raise UserError(f"--split-column {file.split}: no row says train, only {', '.join(names)}")
    splits = {split: [row for row in rows if row.split == name] for split, name in known.items()}
    others = [name for name in names if name not in known.values()]
    return splits, [f"rows whose {file.split} is {', '.join(name or 'empty' for name in others)}"] if others else []


def _straddling(splits: dict[str, list[Row]]) -> list[str]:
    """The groups that lie in two splits."""
    first: dict[str, str] = {}
    found: list[str] = []
    for split, row in _all(splits):
        other = first.setdefault(row.group, split) if row.group else split
        if other != split:
            found.append(f"group {row.group} is in {other} and in {split} (line {row.line})")
            first[row.group] = split
    return found


def _all(splits: dict[str, list[Row]]) -> Iterator[tuple[str, Row]]:
    return ((split, row) for split, rows in splits.items() for row in rows)


def class_names(rows: list[Row]) -> list[str]:
    """The classes of rows, whole numbers in their order."""
    return label_sets.in_order({row.label for row in rows if row.label is not None})

"""Several labels an image: sets of labels, numbered, so that the number of a set goes where a single label goes."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from common.errors import UserError
from common.suggest import did_you_mean, near
from data.class_folders import same_form

SEPARATORS = ("|", ";", ",")  # between the labels of a cell; where there is none of them, spaces are
TRUE, FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")
LIST_COLUMNS = ("labels", "label", "tags", "classes", "objects")  # taken where none is named: the first that there is

Labels = frozenset[str]  # of one image; None in the place of one: nothing is known of its labels


def number_sets(
    splits: Mapping[str, Sequence[Labels | None]], class_names: Sequence[str], where: str
) -> tuple[dict[str, list[int]], np.ndarray]:
    """Number the sets of labels that there are.

    Args:
        splits: the labels of each image of each split.
        class_names: all that may be in a set.
        where: the splits are from, for messages.

    Returns:
        The number of each image's set, -1 where nothing is known; and the sets, uint8 (S, K) of 0 and 1.

    Raises:
        UserError: a label is none of `class_names`, or no image has one.
    """
    place = {name: number for number, name in enumerate(class_names)}
    for split, rows in splits.items():
        unknown = sorted(set().union(*filter(None, rows)) - set(place))
        if unknown:
            raise UserError(f"the {split} split of {where} has labels that train lacks: {', '.join(unknown[:5])}")
    known = sorted({row for rows in splits.values() for row in rows if row is not None}, key=sorted)
    number = {labels: index for index, labels in enumerate(known)}
    sets = np.zeros((len(known), len(class_names)), dtype=np.uint8)
    for labels, index in number.items():
        sets[index, [place[name] for name in labels]] = 1
    if not sets.any():
        raise UserError(f"{where}: no image has a label; give --label-column")
    return {split: [-1 if row is None else number[row] for row in rows] for split, rows in splits.items()}, sets


def sorted_names(rows: Iterable[Labels | None]) -> list[str]:
    """All labels in some sets."""
    return in_order(set().union(*filter(None, rows)))


def in_order(names: Collection[str]) -> list[str]:
    """The names of classes, whole numbers in their order."""
    return sorted(names, key=int) if all(name.lstrip("-").isdecimal() for name in names) else sorted(names)


def cut_cells(cells: Sequence[str | None]) -> list[Labels | None]:
    """The labels in cells of text such as "cat|dog", "cat; dog" or "cat dog"; an empty cell says nothing."""
    texts = [cell for cell in cells if cell]
    separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)
    return [
        frozenset(map(same_form, filter(None, map(str.strip, cell.split(separator))))) if cell else None
        for cell in cells
    ]


def from_flags(columns: Mapping[str, Sequence[object]], where: str) -> list[Labels | None]:
    """The labels that columns of 0 and 1, each called as a label, say of each row; None where one is empty.

    Raises:
        UserError: another value is in one of them.
    """
    rows: list[Labels | None] = []
    for line, values in enumerate(zip(*columns.values(), strict=True)):
        texts = ["" if value is None or value != value else str(value).strip().lower() for value in values]
        for name, text in zip(columns, texts, strict=True):
            if text and text not in (*TRUE, *FALSE):
                raise UserError(
                    f"--label-column {name}: {where} has {text} in row {line + 1}, which is neither 0 nor 1"
                )
        of_row = frozenset(name for name, text in zip(columns, texts, strict=True) if text in TRUE)
        rows.append(of_row if all(texts) else None)
    return rows


def named_columns(wanted: str | None, columns: Sequence[str], where: str) -> list[str]:
    """The columns in --label-column, one or several with commas between; empty where it is not given.

    Raises:
        UserError: there is no such column.
    """
    names = [] if wanted is None else [wanted] if wanted in columns else [name.strip() for name in wanted.split(",")]
    for name in names:
        check_column("--label-column", name, columns, where)
    return names


def check_column(option: str, wanted: str, columns: Sequence[str], where: str) -> None:
    """Raise UserError, with a near name and those there are, unless a table has the column that an option names."""
    if wanted not in columns:
        hint = did_you_mean(near(wanted, columns, 1), after=" ")
        raise UserError(f"{option} {wanted}: {where} has no such column; {hint}there are {', '.join(columns)}")


def are_flags(values: Iterable[object]) -> bool:
    """Whether there is nothing but 0 and 1 among the values that are there."""
    texts = {str(value).strip().lower() for value in values if value is not None and value == value} - {""}
    return bool(texts) and texts <= {*TRUE, *FALSE}


def of_table(table, wanted: str | None, others: Collection[str], where: str) -> tuple[list[str], bool]:
    """The columns of labels of a `datasets.Dataset`, and whether they are columns of 0 and 1.

    Args:
        wanted: --label-column.
        others: columns of something else.

    Raises:
        UserError: there is no such column, or none that may be meant.
    """
    columns = [name for name in table.features if name not in others]
    named = named_columns(wanted, columns, where)
    if named:
        return named, len(named) > 1
    lists = [name for name in columns if _is_list(table.features[name])]
    usual = next((name for name in LIST_COLUMNS if name in lists), None) or (lists[0] if len(lists) == 1 else None)
    if usual is not None:
        return [usual], False
    flags = [name for name in columns if _may_be_flag(table.features[name]) and are_flags(table[name][:])]
    if len(flags) < 2:
        known = ", ".join(columns) or "none"
        raise UserError(f"{where} has no column of lists and none of 0 and 1: give --label-column, some of {known}")
    return flags, True


def rows_of_table(table, columns: Sequence[str], flags: bool, where: str) -> tuple[list[Labels | None], list[str]]:
    """The labels of each row of a `datasets.Dataset`, and the classes' names where its columns say them, else none."""
    if flags:
        return from_flags({name: table[name][:] for name in columns}, where), list(columns)
    column, feature = columns[0], table.features[columns[0]]
    values = table[column][:]
    if not _is_list(feature):
        return cut_cells([None if value is None else str(value) for value in values]), []
    names = getattr(feature.feature, "names", None)
    of_each = [None if row is None else frozenset(_name(value, names) for value in row) for row in values]
    return of_each, list(names or [])


def _name(value: object, names: Sequence[str] | None) -> str:
    return same_form(str(value)) if names is None else names[value]


def _is_list(feature: object) -> bool:
    return getattr(feature, "feature", None) is not None and not isinstance(feature.feature, dict)


def _may_be_flag(feature: object) -> bool:
    return getattr(feature, "dtype", "").startswith(("int", "uint", "float", "bool")) and not hasattr(feature, "names")

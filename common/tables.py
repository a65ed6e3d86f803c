"""Tables of text: for files in Markdown, for the terminal no wider than it is."""

from collections.abc import Sequence

GAP = 3  # characters between two cells, " | "


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well in a terminal too: columns of one width."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def fitted(rows: Sequence[Sequence[str]], width: int, expendable: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """A table of at most `width` characters, and the headers of the columns that it took.

    Args:
        rows: the first is the header, whose first cell heads the rows' names; those are cut in the middle if need be.
        width: of the lines that `as_markdown` makes.
        expendable: headers in the order in which their columns are left out.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    left_out = []
    for header in expendable:
        if _width(columns) <= width:
            break
        if any(column[0] == header for column in columns[1:]):
            columns = [columns[0], *(column for column in columns[1:] if column[0] != header)]
            left_out.append(header)
    too_wide = _width(columns) - width
    if too_wide > 0:
        room = max(12, max(map(len, columns[0])) - too_wide)
        columns[0] = [_cut(cell, room) for cell in columns[0]]
    return [list(row) for row in zip(*columns, strict=True)], left_out


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(3, *map(len, column)) + GAP for column in columns) + 1


def _cut(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[len(text) - (most - half) :]}"

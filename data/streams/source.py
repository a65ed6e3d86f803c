"""Opens a source to stream train from; what is tested on, and a sample of train, is read once and kept."""

import functools
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from common.console import status
from common.errors import UserError
from data import tables
from data.class_folders import same_form
from data.readers import SPLIT_OPTIONS, UNLABELLED, Column, RawSplit, Selection, name_splits
from data.sources import Source

if TYPE_CHECKING:
    import datasets

SAMPLE = 1000  # images of train that are looked at before training: their mean, spread, sizes
AT_ONCE = 16  # files that are asked for their length


@dataclass(frozen=True)
class Stream:
    """Train as it is read while it is trained on.

    Attributes:
        table: rows of an encoded image and a label.
        image, label: their columns.
        class_names: the name of each label.
        length: how many samples there are, or are said to be.
        where: what it was opened by, for messages.
    """

    table: "datasets.IterableDataset"
    image: str
    label: str
    class_names: list[str]
    length: int
    where: str

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    def encoded(self, row: dict) -> dict:
        """The image of a row as `open_image` takes it."""
        image = row[self.image]
        return image if isinstance(image, dict) or image is None else {"bytes": image, "path": None}

    def number(self, row: dict) -> int:
        """The label of a row, -1 where it has none.

        Raises:
            UserError: it is none of the classes.
        """
        import datasets

        value = row[self.label]
        if isinstance(self.table.features[self.label], datasets.ClassLabel):
            return -1 if value is None else value
        value = tables.plain_label(value, self.label, self.where)
        if value is None:
            return -1
        name = same_form(str(value))
        if name not in self._numbers:
            raise UserError(
                f"train of {self.where} has the label {name}, which neither its first {SAMPLE:,} images have nor what "
                "is tested on: write it with ClassLabel, which names all classes, or without --stream"
            )
        return self._numbers[name]


def open_stream(
    source: Source, selection: Selection, num_samples: int | None, rows: int | None
) -> tuple[Stream, dict[str, RawSplit], list[str]]:
    """Train of a source, to be streamed; its other splits and a sample of train, kept on disk; and remarks on them.

    Args:
        source: a Hub id, a folder of parquet files, or a URL of such.
        selection: which splits and columns.
        num_samples: of train; None: as is written with it, or in the footers of its files.
        rows: of each kept split no more than so many.

    Raises:
        UserError: it cannot be opened, has no split beside train to test on, or does not tell how many images there
            are.
    """
    import datasets

    if source.kind in ("digits", "tree"):
        raise UserError(f"--stream is for parquet files and tar shards, which {source.name} is not: leave it out")
    with tables.opening(source, selection.config) as builder:
        status(f"opening {source.where}")
        full = builder.as_streaming_dataset()
        named = name_splits(full, selection.splits(), source.where)
        if "train" not in named or len(named) < 2:
            raise UserError(
                f"{source.where} has the splits {', '.join(full)}: --stream needs one to train on and another to test "
                "on, as nothing is held out of a stream; name them by --train-split and --test-split"
            )
        train = full[named["train"]]
        image = tables.image_column(train, selection.image, source.where)
        label = tables.label_column(train, selection.label, selection.coarse, source.where)
        undecoded = {
            split: full[name].cast_column(image, datasets.Image(decode=False)) for split, name in named.items()
        }
        known = tables.fingerprint(builder)
        kept = {
            split: _keep(
                table.select_columns([column for column in (image, label) if column in table.features]),
                f"{known}-{named[split]}-{image}-{label}",
                split,
                min(SAMPLE, rows or SAMPLE) if split == "train" else rows,
            )
            for split, table in undecoded.items()
        }
        splits, class_names = _raw_splits(kept, image, label, source, known)
        length = num_samples or _length(builder, named["train"], source)
    table = undecoded["train"].select_columns([image, label])
    left_out = [name for name in full if name not in named.values()]
    remarks = [f"the split {name} is left out: it is neither train, validation nor test" for name in left_out]
    return Stream(table, image, label, class_names, length, source.where), splits, remarks


def _keep(table: "datasets.IterableDataset", fingerprint: str, split: str, rows: int | None) -> "datasets.Dataset":
    """The first `rows` of a table, or all, in the cache of `datasets`, where an earlier run may have left them."""
    import datasets

    def read() -> Iterator[dict]:
        yield from islice(iter(table), rows)

    status(f"reading {split}")
    key = hashlib.sha256(f"{fingerprint}-{rows}".encode()).hexdigest()[:16]
    datasets.disable_progress_bars()
    return datasets.Dataset.from_generator(read, features=table.features, fingerprint=key)


def _raw_splits(
    kept: dict[str, "datasets.Dataset"], image: str, label: str, source: Source, fingerprint: str
) -> tuple[dict[str, RawSplit], list[str]]:
    """What is kept as the splits of any other table, and the classes: those that are named, or all that are seen."""
    import datasets

    empty = next((split for split, table in kept.items() if not len(table)), None)
    if empty is not None:
        raise UserError(f"the {empty} split of {source.where} is empty: name another by {SPLIT_OPTIONS[empty]}")
    names = None
    if not isinstance(kept["train"].features[label], datasets.ClassLabel):
        values = {
            tables.plain_label(value, label, source.where)
            for table in kept.values()
            if label in table.features
            for value in table[label][:]
        }
        names = [same_form(str(value)) for value in sorted(values - {None})]
    splits = {}
    for split, table in kept.items():
        labels, class_names = tables.labels(table, label, source, names)
        raw = RawSplit(len(table), Column(table, image), labels, class_names, f"{fingerprint}-{split}")
        splits[UNLABELLED if split == "test" and max(labels) < 0 else split] = raw
        names = names or class_names
    return {split: replace(raw, class_names=names) for split, raw in splits.items()}, names


def _length(builder: "datasets.DatasetBuilder", split: str, source: Source) -> int:
    """How many samples a split has: as its card says, or the footers of its parquet files."""
    from datasets.utils.file_utils import xopen
    from pyarrow import parquet

    written = (builder.info.splits or {}).get(split)
    if written is not None and written.num_examples:
        return written.num_examples
    files = list(map(str, (builder.config.data_files or {}).get(split, [])))
    if not files or not all(file.endswith(".parquet") for file in files):
        raise UserError(
            f"{source.where} does not say how many images {split} has: give --train-num-samples, by which an epoch ends"
        )

    def rows(file: str) -> int:
        with xopen(file, "rb") as opened:
            return parquet.read_metadata(opened).num_rows

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(rows, files))

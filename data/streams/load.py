"""A data set whose train part is streamed: opened, with what is tested on prepared as that of any other."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError
from data.class_folders import alike
from data.dataset import DataSplits, build_splits
from data.geometry import MIDDLE, Geometry
from data.prepare import Wanted, prepare
from data.readers import UNLABELLED, Selection
from data.sources import find_source
from data.streams.source import SAMPLE, Stream, open_stream
from data.subsets import Subset, check_several, subsample

UNKNOWN = ("test_images_also_in_train", "duplicates_within_train")  # notes that would need all of train


@dataclass(frozen=True)
class StreamedSubset(Subset):
    """Train: as long as the stream, while `arrays` and `ids` are of a sample of it."""

    stream: Stream

    def __len__(self) -> int:
        return self.stream.length


def load_stream(
    dataset: str,
    *,
    data_dir: str | None = None,
    train_num_samples: int | None = None,
    image_size: int | None = None,
    default_size: Callable[[], int] | None = None,
    limit_val: int | None = None,
    limit_test: int | None = None,
    smoke_images: int | None = None,
    rows: int | None = None,
    skip_bad_images: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    coarse: bool = False,
    geometry: Geometry = MIDDLE,
    decode: str = "cache",
    hub_config: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
) -> DataSplits:
    """Open a data set to stream train from; validation and test are its own splits, or test alone.

    Args:
        train_num_samples: images of train; None: as is written with it.
        smoke_images: of train, for a smoke test; `rows`: of each other split; None: all.

        The others are those of `load_images`.

    Raises:
        UserError: whatever the user can put right; see the messages.
    """
    source = find_source(dataset, data_dir)
    selection = Selection(image_column, label_column, coarse, hub_config, train_split, val_split, test_split)
    stream, splits, about_source = open_stream(source, selection, train_num_samples, rows)
    wanted = Wanted(decode, image_size, default_size, geometry, rows, skip_bad_images)
    decoded = prepare(source, selection, None, wanted, (splits, []), "stream")
    check_several(dataset, stream.class_names)
    sample, *held_out = _parts(decoded.splits)
    limits = (None, limit_val if len(held_out[0]) else None, limit_test)
    _, val, test = subsample((sample, *held_out), limits, seed, smoke=rows is not None)
    if smoke_images is not None:
        stream = replace(stream, length=min(stream.length, smoke_images))
    train = StreamedSubset(sample.arrays, sample.ids, stream)
    if UNLABELLED in decoded.splits:
        about_source = [*about_source, "the test split has no labels: the validation split is tested on instead"]
    about_source = [*about_source, *_about_stream(stream, val), *alike(stream.class_names)]
    by_default = image_size is None and len(decoded.sizes) > 1
    name = f"{source.name}-coarse" if coarse else source.name
    data = build_splits(name, train, val, test, decoded._replace(remarks=about_source), by_default=by_default)
    return replace(data, notes={key: value for key, value in data.notes.items() if key not in UNKNOWN})


def _parts(splits: dict) -> tuple[Subset, Subset, Subset]:
    """The sample of train, validation and test; what there is one of alone is tested on."""
    of = {name: Subset(arrays, np.arange(len(arrays.labels))) for name, arrays in splits.items()}
    if "test" in of and "validation" in of:
        return of["train"], of["validation"], of["test"]
    tested = of.get("test") or of.get("validation")
    if tested is None:
        raise UserError("the test split has no labels, and there is no validation split to test on instead")
    return of["train"], Subset(tested.arrays, tested.ids[:0]), tested


def _about_stream(stream: Stream, val: Subset) -> list[str]:
    shards = stream.table.num_shards
    sentences = [
        f"train is streamed from {shards:,} {'shards' if shards > 1 else 'shard'}, in an order that depends on the "
        "number of processes, and shuffled within some shards at a time",
        f"the mean and spread are those of its first {SAMPLE:,} images; nobody has looked for duplicates in it",
    ]
    return sentences if len(val) else [*sentences, "nothing is validated on: the last epoch's weights are kept"]

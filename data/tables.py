"""Tables that `datasets` opens, from parquet files or the Hub: which columns hold images and labels, and the labels."""

import errno
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common import hub
from common.errors import UserError
from data.class_folders import same_form
from data.sources import BUILT_IN, Source

if TYPE_CHECKING:
    import datasets

BINARY = ("binary", "large_binary")  # how the types of columns begin
PLAIN = ("int", "uint", "float", "double", "string", "large_string", "bool", "null")
CIFAR100 = {"fine_label", "coarse_label"}  # columns: the one set of classes is of the other's, and has its own option


def load(source: Source, config: str | None) -> tuple[dict, list[str]]:
    """The splits of `source` as `datasets.Dataset`s, and the names of those that are empty, which it refuses to open.

    Args:
        source: a Hub id or a folder of parquet files.
        config: which of several data sets in it; None: the only one, or its default.

    Raises:
        UserError: as `opening`.
    """
    with opening(source, config) as builder:
        builder.download_and_prepare()
        sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
        full = {name: builder.as_dataset(split=name) for name, size in sizes.items() if size}
    return full, [name for name in sizes if name not in full]


@contextmanager
def opening(source: Source, config: str | None) -> Iterator["datasets.DatasetBuilder"]:
    """What builds the splits of `source`, and within, what goes wrong while they are opened, in our words.

    Raises:
        UserError: no such configuration, no network and no copy, damaged files, or no room to unpack them.
    """
    import datasets
    import huggingface_hub

    if source.kind == "parquet" and set("[]*?") & set(source.where):
        raise UserError(f"{source.where}: `datasets` reads [ ] * ? in a folder's name as a pattern: rename it")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said here, in one line
    if source.kind == "hub" and not hub.answers():
        # A copy from an earlier download still loads; without this a missing one costs half a minute of retries.
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield datasets.load_dataset_builder(*_what_to_open(source, config))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        if errno.ENOSPC in (getattr(e, "errno", None) for e in (error, error.__cause__, error.__context__)):
            cache = datasets.config.HF_DATASETS_CACHE
            raise UserError(f"no space left in {cache}: make room there, or set HF_HOME to another disk") from error
        _check_config(source, config, error)
        lost = ConnectionError, datasets.exceptions.DatasetNotFoundError
        if source.kind != "hub" or not isinstance(error, lost):
            raise UserError(f"{source.where} cannot be opened: {error.__cause__ or error}") from error
        raise UserError(
            f"the data set {source.where} is not on the Hub or the Hub is out of reach, and there is no local "
            "copy. Three ways out: connect to the internet once and start again (later runs need none); put a "
            f"copy at DIR/{source.name} and give --data-dir DIR; or give --dataset {BUILT_IN}, which needs no download"
        ) from error


def _check_config(source: Source, config: str | None, error: Exception) -> None:
    """Raise UserError if `error` is that of a configuration that there is not, or not given where there are several."""
    known = re.search(r"(?:available configs:|Available:) *\[([^\]]*)\]", str(error))
    if known and "onfig" in str(error):
        names = known[1].replace("'", "")
        where = source.where
        said = f"--hub-config {config}: {where} has no such data set" if config else f"{where} holds several data sets"
        raise UserError(f"{said}: give --hub-config, one of {names}") from error


def _what_to_open(source: Source, config: str | None) -> tuple:
    """What `datasets` is to open: a folder as a whole, or the parquet files of one with pictures in it.

    Left to itself it takes a folder for what most of its files are, unless a card says which files are the data.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    if source.kind == "url":
        found = DataFilesDict.from_patterns(get_data_patterns(source.where), source.where)
        tables = {split: [file for file in files if file.endswith(".parquet")] for split, files in found.items()}
        shards = {split: [file for file in files if file.endswith(".tar")] for split, files in found.items()}
        way, files = ("parquet", tables) if any(tables.values()) else ("webdataset", shards)
        return way, None, None, {split: some for split, some in files.items() if some}
    if source.kind == "hub" or not source.folder.holds_images():
        return source.where, config
    card = Path(source.where, "README.md")
    if card.is_file() and MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data):
        return source.where, config
    found = DataFilesDict.from_patterns(get_data_patterns(source.where), source.where, allowed_extensions=[".parquet"])
    return "parquet", None, None, {split: list(files) for split, files in found.items() if files}


def fingerprint(builder: "datasets.DatasetBuilder") -> str:
    """Changes when the files do that a data set is built from, or how it is read."""
    found = builder.config.data_files or {}
    files = {split: [list(files), files.origin_metadata] for split, files in found.items()}
    return hashlib.sha256(f"{builder.config_id} {builder.hash} {files}".encode()).hexdigest()


def image_column(table, wanted: str | None, where: str) -> str:
    """The column of images: the one that is `wanted`, else "image", else the only one of a type for images.

    Raises:
        UserError: there is no such column, or there are several.
    """
    columns = list(table.features)
    if wanted is not None:
        if wanted not in columns:
            raise UserError(f"--image-column {wanted}: {where} has no such column, but {', '.join(columns)}")
        if not _holds_images(table.features[wanted]) and getattr(table.features[wanted], "dtype", "") not in BINARY:
            raise UserError(f"--image-column {wanted}: this column of {where} holds no encoded images")
        return wanted
    images = [column for column, feature in table.features.items() if _holds_images(feature)]
    if "image" in images:
        return "image"
    if len(images) != 1:
        some = images or columns
        raise UserError(f"{where} has {len(images)} image columns: give --image-column, one of {', '.join(some)}")
    return images[0]


def _holds_images(feature: object) -> bool:
    """Whether a column is of images: typed so, or written without `datasets` in the form that it stores them in."""
    import datasets

    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def label_column(table, wanted: str | None, coarse: bool, where: str) -> str:
    """The column of labels: the one that is `wanted`, else "label", else the only one of type ClassLabel.

    Of CIFAR-100's two the fine one; with `coarse`, of two the one that has fewer classes.

    Raises:
        UserError: there is no such column, or it is not clear which one is meant.
    """
    import datasets

    features = table.features
    typed = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    plain = [name for name, feature in features.items() if _holds_plain_labels(feature)]
    candidates = ", ".join([*typed, *plain]) or "none"
    if wanted is not None and coarse:
        raise UserError("--coarse and --label-column both say what the classes are: leave one out")
    if wanted is not None:
        if wanted not in [*typed, *plain]:
            kind = "this column holds no class labels" if wanted in features else "there is no such column"
            raise UserError(f"--label-column {wanted}: {kind} in {where}; those that may hold some: {candidates}")
        return wanted
    if coarse:
        if len(typed) < 2:
            raise UserError(f"--coarse: {where} has one set of classes only; leave the option out")
        if len(typed) > 2:
            raise UserError(f"--coarse: {where} has {len(typed)} sets of classes: give --label-column instead")
        return min(typed, key=lambda name: typed[name].num_classes)
    if "label" in [*typed, *plain]:
        return "label"
    if set(typed) == CIFAR100:
        return "fine_label"
    if len(typed) != 1:
        raise UserError(
            f"{where} has {len(typed)} columns of type ClassLabel and none called 'label': give --label-column, one of "
            + candidates
        )
    return next(iter(typed))


def _holds_plain_labels(feature: object) -> bool:
    return getattr(feature, "dtype", "").startswith(PLAIN)


def labels(table, column: str, source: Source, train_names: list[str] | None) -> tuple[list[int], list[str]]:
    """(a label for each row, -1 where it has none; the classes' names) of a column.

    Args:
        train_names: the classes of the train split; None: this is it.

    Raises:
        UserError: files that name their classes otherwise, or labels that the train split lacks.
    """
    import datasets

    if column not in table.features:
        return [-1] * len(table), train_names or []
    values = table[column][:]
    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        if source.kind == "parquet":
            _check_files(source, column, list(feature.names))
        if len(set(map(same_form, feature.names))) < len(feature.names):
            raise UserError(
                f"{source.where} has classes whose names differ in the form of their accents alone: merge them"
            )
        return [-1 if value is None else value for value in values], list(feature.names)
    values = [plain_label(value, column, source.where) for value in values]
    class_names = train_names or [str(value) for value in sorted(set(values) - {None})]
    number = {same_form(name): label for label, name in enumerate(class_names)}
    found = [None if value is None else str(value) for value in values]
    unknown = sorted(set(found) - set(number) - {None})
    if unknown:
        raise UserError(f"a split of {source.where} has labels that its train split lacks: {', '.join(unknown)}")
    return [-1 if name is None else number[name] for name in found], class_names


def plain_label(value: object, column: str, where: str) -> int | str | bool | None:
    """A label as it is meant: None where there is none, and whole numbers where pandas made fractions of them."""
    if value is None or value == "" or value == -1 or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            raise UserError(f"the column {column} of {where} holds {value}: class labels are whole numbers or words")
        return int(value)
    return same_form(value) if isinstance(value, str) else value


def _check_files(source: Source, column: str, class_names: Iterable[str]) -> None:
    """Refuse files that name their classes otherwise: `datasets` reads the numbers of all by the first file's names."""
    from pyarrow import parquet

    for path in parquet_files(source):
        written = (parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        own = json.loads(written).get("info", {}).get("features", {}).get(column, {}).get("names", class_names)
        if own != class_names:
            raise UserError(
                f"{path} names its classes {own}, the train split names them {class_names}: make them equal"
            )


def parquet_files(source: Source) -> list[Path]:
    """The parquet files of a folder."""
    return [path for path in source.folder.files() if path.suffix == ".parquet"]

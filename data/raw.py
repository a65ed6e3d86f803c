"""Opens a source through `datasets`: encoded images, labels and class names of each split.

`datasets` is imported only where it is needed: it takes seconds to import, and a data set whose decoded copy is already
cached (see `data/cache.py`) does without it.
"""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from data.folders import files_in, images_in, subfolders
from data.sources import BUILT_IN, Source
from engine.errors import UserError

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def named_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Which of the names is "train", "validation" and "test"; names that say neither are left out.

    Raises:
        UserError: two of them name one split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = SPLITS.get(name.lower())
        if split in found:
            raise UserError(f"{where} has two {split} splits, {found[split]} and {name}: move one of them away")
        if split:
            found[split] = name
    return found


@dataclass(frozen=True)
class RawSplit:
    """Encoded images and their labels.

    Attributes:
        length: how many samples.
        read: sample numbers -> their images as `datasets` holds them undecoded, `{"bytes": ..., "path": ...}`.
        labels: one int for each sample.
        class_names: the name of each label.
        fingerprint: changes when the data changes.
    """

    length: int
    read: Callable[[range], list[dict]]
    labels: list[int]
    class_names: list[str]
    fingerprint: str


def read_raw_splits(source: Source, coarse: bool) -> dict[str, RawSplit]:
    """Open the splits of `source` ("train" and, where it has them, "validation" and "test"), images undecoded.

    Raises:
        UserError: no network and no copy, no train split, no image or label column, or a split whose classes
            are not the train split's.
    """
    splits = _tree_splits(source, coarse) if source.kind == "tree" else _table_splits(source, coarse)
    if "train" not in splits:
        raise UserError(f"{source.where} has no train split, only: {', '.join(splits) or 'none'}")
    for name, split in splits.items():
        _check_classes(source, name, split, splits["train"].class_names)
    return splits


def _load(source: Source) -> dict:
    import datasets
    import huggingface_hub

    if source.kind == "parquet" and set("[]*?") & set(source.where):
        raise UserError(f"{source.where}: `datasets` reads [ ] * ? in a folder's name as a pattern: rename it")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said here, in one line
    if source.kind == "hub" and not _hub_answers():
        # A copy from an earlier download still loads; without this a missing one costs half a minute of retries.
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(source.where)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        if errno.ENOSPC in (getattr(e, "errno", None) for e in (error, error.__cause__, error.__context__)):
            cache = datasets.config.HF_DATASETS_CACHE
            raise UserError(f"no space left in {cache}: make room there, or set HF_HOME to another disk") from error
        lost = ConnectionError, datasets.exceptions.DatasetNotFoundError
        if source.kind == "parquet" or not isinstance(error, lost):
            raise UserError(f"{source.where} cannot be opened: {error.__cause__ or error}") from error
        raise UserError(
            f"the data set {source.where} is not on the Hub or the Hub is out of reach, and there is no local "
            "copy. Three ways out: connect to the internet once and start again (later runs need none); put a "
            f"copy at DIR/{source.name} and give --data-dir DIR; or give --dataset {BUILT_IN}, which needs no download"
        ) from error


def _hub_answers() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    endpoint = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def _table_splits(source: Source, coarse: bool) -> dict[str, RawSplit]:
    import datasets

    tables = _load(source)
    splits: dict[str, RawSplit] = {}
    for name, own_name in sorted(named_splits(tables, source.where).items(), key=lambda item: item[0] != "train"):
        table = tables[own_name]
        images = [column for column, feature in table.features.items() if _holds_images(feature)]
        if len(images) != 1:
            raise UserError(f"{source.where} needs one image column, it has {len(images)} among {list(table.features)}")
        labels, class_names = _labels(table, source, coarse, splits["train"].class_names if "train" in splits else None)
        undecoded = table.cast_column(images[0], datasets.Image(decode=False))
        splits[name] = RawSplit(
            length=len(table),
            read=_reader(undecoded, images[0]),
            labels=labels,
            class_names=class_names,
            fingerprint=table._fingerprint,
        )
    return splits


def _holds_images(feature: object) -> bool:
    """Whether a column is of images: typed so, or written without `datasets` in the form that it stores them in."""
    import datasets

    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _reader(table, column: str) -> Callable[[range], list[dict]]:
    return lambda rows: table[rows.start : rows.stop][column]


def _check_files(folder: Path, column: str, class_names: list[str]) -> None:
    """Refuse files that name their classes otherwise: `datasets` reads the numbers of all by the first file's names."""
    from pyarrow import parquet

    for path in (path for path in files_in(folder) if path.suffix == ".parquet"):
        written = (parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        own = json.loads(written).get("info", {}).get("features", {}).get(column, {}).get("names", class_names)
        if own != class_names:
            raise UserError(
                f"{path} names its classes {own}, the train split names them {class_names}: make them equal"
            )


def _labels(table, source: Source, coarse: bool, train_names: list[str] | None) -> tuple[list[int], list[str]]:
    """Labels and class names from the column of type ClassLabel, or from plain numbers or words called "label"."""
    import datasets

    features = table.features
    typed = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    if coarse and len(typed) < 2:
        raise _no_coarse(source)
    if typed:
        by_size = sorted(typed, key=lambda name: typed[name].num_classes)
        column = by_size[0] if coarse else by_size[-1]
        if source.kind == "parquet":
            _check_files(Path(source.where), column, list(typed[column].names))
        labels = table[column][:]
        return [-1 if label is None else label for label in labels], list(typed[column].names)
    plain = getattr(features.get("label"), "dtype", "")
    if not plain.startswith(("int", "uint", "string", "large_string", "bool")):
        raise UserError(
            f"{source.where} has no column of class labels in {list(features)}: it needs one of the feature type "
            "ClassLabel, or one called 'label' of whole numbers or words"
        )
    values = table["label"][:]
    class_names = train_names or [str(value) for value in sorted(set(values) - {None})]
    number = {name: label for label, name in enumerate(class_names)}
    unknown = sorted({str(value) for value in values if value is not None} - set(number))
    if unknown:
        raise UserError(f"a split of {source.where} has labels that its train split lacks: {', '.join(unknown)}")
    return [number.get(str(value), -1) for value in values], class_names


def _no_coarse(source: Source) -> UserError:
    return UserError(f"--coarse: {source.name} has one set of classes only; leave the option out")


def _tree_splits(source: Source, coarse: bool) -> dict[str, RawSplit]:
    if coarse:
        raise _no_coarse(source)
    root = Path(source.where)
    folders = subfolders(root)
    named = named_splits([folder.name for folder in folders], source.where)
    if "train" in named or 0 < len(named) == len(folders):
        return {split: _tree_split(root / name) for split, name in named.items()}
    return {"train": _tree_split(root)}


def _tree_split(root: Path) -> RawSplit:
    import datasets

    class_folders = subfolders(root)
    if not class_folders:
        raise UserError(f"the folder {root} has no folder for each class: put images into {root}/<class name>/")
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(class_folders):
        images = images_in(folder)
        if not images:
            raise UserError(f"the class folder {folder} holds no image: put images there or remove the folder")
        paths += [str(path) for path in images]
        labels += [label] * len(images)
    table = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image(decode=False))
    return RawSplit(
        length=len(paths),
        read=_reader(table, "image"),
        labels=labels,
        class_names=[folder.name for folder in class_folders],
        fingerprint=table._fingerprint,
    )


def _check_classes(source: Source, split_name: str, split: RawSplit, train_names: list[str]) -> None:
    if split.length == 0:
        raise UserError(f"the {split_name} split of {source.where} is empty")
    missing = [name for name in train_names if name not in split.class_names]
    extra = [name for name in split.class_names if name not in train_names]
    if missing or extra:
        raise UserError(
            f"the {split_name} split of {source.where} has other classes than train: "
            f"missing {missing or 'none'}, extra {extra or 'none'}; make the class folders equal"
        )
    if split.class_names != train_names:
        raise UserError(
            f"the {split_name} split of {source.where} numbers its classes otherwise than train: "
            f"{split.class_names} against {train_names}"
        )
    if min(split.labels) < 0:
        raise UserError(f"the {split_name} split of {source.where} has samples without a label; leave them out")

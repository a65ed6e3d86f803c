"""Where data comes from: a name, a Hub id or a folder becomes raw splits of encoded images and labels.

Everything is read through `datasets`, which is imported only where it is needed: it takes seconds to import and a
data set whose decoded copy is already cached (see `data/cache.py`) does without it.
"""

import difflib
import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from data.folders import images_in, is_hidden, subfolders
from engine.errors import UserError

BUILT_IN = "digits"
# name -> (Hub id, what it is). The Hub id's last part is not the name everywhere, so both are looked for on disk.
NAMED = {
    "digits": (
        "",
        "1,797 scans of handwritten digits, 8x8 grey, 10 classes; comes with scikit-learn, no download",
    ),
    "mnist": ("ylecun/mnist", "70,000 handwritten digits, 28x28 grey, 10 classes"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "70,000 pieces of clothing, 28x28 grey, 10 classes"),
    "cifar10": ("uoft-cs/cifar10", "60,000 photos, 32x32 colour, 10 classes"),
    "cifar100": ("uoft-cs/cifar100", "60,000 photos, 32x32 colour, 100 classes, or 20 with --coarse"),
    "imagenette": ("frgfm/imagenette", "photos of 10 ImageNet classes, many sizes: give --image-size"),
}
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


@dataclass(frozen=True)
class Source:
    """One place that holds a data set.

    Attributes:
        name: short name, used in folder names and titles.
        kind: "digits", "parquet", "tree" (a folder of images for each class) or "hub".
        where: the folder, or the Hub id; empty for the built-in one.
        fingerprint: changes when the data changes; None where only loading can tell (a Hub id).
    """

    name: str
    kind: str
    where: str
    fingerprint: str | None


@dataclass(frozen=True)
class RawSplit:
    """Encoded images and their labels.

    Attributes:
        length: how many samples.
        get: sample number -> its image as `datasets` holds it undecoded, `{"bytes": ..., "path": ...}`.
        labels: one int for each sample.
        class_names: the name of each label.
        fingerprint: changes when the data changes.
    """

    length: int
    get: Callable[[int], dict]
    labels: list[int]
    class_names: list[str]
    fingerprint: str


def find_source(dataset: str, data_dir: str | None) -> Source:
    """Say where `dataset` is, without reading it: built in, `data_dir/<name>`, a folder, or the Hub.

    Raises:
        UserError: there is no such name, folder or Hub id.
    """
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    if dataset == BUILT_IN:
        return Source(BUILT_IN, "digits", "", "scikit-learn")
    hub_id = NAMED[dataset][0] if dataset in NAMED else dataset
    if data_dir:
        for name in (dataset, hub_id.split("/")[-1]):
            local = Path(data_dir).expanduser() / name
            if local.is_dir():
                return _folder_source(local, name=Path(name).name)
    if dataset in NAMED:
        return Source(dataset, "hub", hub_id, None)
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        return _folder_source(folder, name=folder.resolve().name)
    looks_like_path = folder.is_absolute() or dataset.startswith((".", "~")) or dataset.count("/") != 1
    if "/" in dataset and looks_like_path:
        raise UserError(f"--dataset {dataset}: there is no such folder")
    if "/" in dataset:
        return Source(dataset.split("/")[-1], "hub", dataset, None)
    near = difflib.get_close_matches(dataset, NAMED, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"unknown data set '{dataset}': {hint}give one of {', '.join(NAMED)}, a folder, or a Hub id (owner/name)"
    )


def _folder_source(folder: Path, name: str) -> Source:
    parquet = sorted(path for path in folder.rglob("*.parquet") if not is_hidden(path, folder))
    if parquet:
        return Source(name, "parquet", str(folder.resolve()), _files_fingerprint(parquet, folder))
    images = images_in(folder)
    if not images:
        raise UserError(f"the folder {folder} holds neither parquet files nor images in one folder a class")
    return Source(name, "tree", str(folder.resolve()), _files_fingerprint(images, folder))


def _files_fingerprint(files: list[Path], root: Path) -> str:
    digest = hashlib.sha256(str(root.resolve()).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def read_raw_splits(source: Source, coarse: bool) -> dict[str, RawSplit]:
    """Open the splits of `source` ("train" and, where it has them, "validation" and "test"), images undecoded.

    Raises:
        UserError: no network and no copy, no train split, no image or label column, or a split whose classes
            are not the train split's.
    """
    if source.kind == "tree":
        splits = _tree_splits(Path(source.where))
    else:
        splits = {
            SPLIT_FOLDERS[name]: _raw_split(split, source, coarse)
            for name, split in _load(source).items()
            if name in SPLIT_FOLDERS
        }
    if "train" not in splits:
        raise UserError(f"{source.where} has no train split, only: {', '.join(splits) or 'none'}")
    for name, split in splits.items():
        _check_classes(source, name, split, splits["train"].class_names)
    return splits


def _load(source: Source) -> dict:
    import datasets
    import huggingface_hub

    if source.kind == "hub" and not _hub_answers():
        # A copy from an earlier download still loads; without this a missing one costs half a minute of retries.
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(source.where)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
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


def _raw_split(split, source: Source, coarse: bool) -> RawSplit:
    import datasets

    features = split.features
    image_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(image_columns) != 1:
        raise UserError(f"{source.where} needs one image column, it has {len(image_columns)} among {list(features)}")
    labels = {n: feature for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    if not labels:
        raise UserError(f"{source.where} has no column of class labels (feature type ClassLabel) in {list(features)}")
    if coarse and len(labels) < 2:
        raise UserError(f"--coarse: {source.name} has one set of classes only; leave the option out")
    by_size = sorted(labels, key=lambda name: labels[name].num_classes)
    column = by_size[0] if coarse else by_size[-1]
    undecoded = split.cast_column(image_columns[0], datasets.Image(decode=False))
    return RawSplit(
        length=len(split),
        get=lambda number: undecoded[number][image_columns[0]],
        labels=split[column][:],
        class_names=list(labels[column].names),
        fingerprint=split._fingerprint,
    )


def _tree_splits(root: Path) -> dict[str, RawSplit]:
    named = {SPLIT_FOLDERS[f.name.lower()]: f for f in subfolders(root) if f.name.lower() in SPLIT_FOLDERS}
    if "train" in named:
        return {name: _tree_split(folder) for name, folder in named.items()}
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
        get=lambda number: table[number]["image"],
        labels=labels,
        class_names=[folder.name for folder in class_folders],
        fingerprint=table._fingerprint,
    )


def _check_classes(source: Source, split_name: str, split: RawSplit, train_names: list[str]) -> None:
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
    if split.length == 0:
        raise UserError(f"the {split_name} split of {source.where} is empty")
    if min(split.labels) < 0:
        raise UserError(f"the {split_name} split of {source.where} has samples without a label; leave them out")

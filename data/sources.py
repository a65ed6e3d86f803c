"""Where data comes from: a name, a Hub id or a folder. Nothing is opened and nothing heavy imported yet."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import is_folder
from common.suggest import did_you_mean, near
from data.folders import Folder, in_brackets, is_image, walk

BUILT_IN = "digits"
CARDS = ("README.md", "dataset_infos.json")  # beside parquet files: they say to `datasets` which file is which split
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
    "imagenette": ("frgfm/imagenette", "photos of 10 ImageNet classes, of many sizes"),
}


@dataclass(frozen=True)
class Source:
    """One place that holds a data set.

    Attributes:
        name: short name, used in folder names and titles.
        kind: "digits", "parquet", "tree" (a folder of images for each class), "hub" or "url".
        where: the folder, the Hub id or the URL; empty for the built-in one.
        fingerprint: changes when the data changes; None where only loading can tell (a Hub id, a URL).
        folder: what the folder holds, where it is one.
    """

    name: str
    kind: str
    where: str
    fingerprint: str | None
    folder: Folder | None = field(default=None, compare=False, repr=False)


def find_source(dataset: str, data_dir: str | None) -> Source:
    """Say where `dataset` is, without reading it: built in, `data_dir/<name>`, a folder, or the Hub.

    A name from NAMED or a Hub id is looked for in `data_dir` first, also by its last part. What can only be a path
    (it begins with `/`, `.` or `~`) is that folder and nothing else.

    Raises:
        UserError: there is no such name, folder or Hub id.
    """
    root = _expanded("--data-dir", data_dir) if data_dir else None
    if root and not root.is_dir():
        raise UserError(f"--data-dir {data_dir}: there is no such folder")
    if dataset == BUILT_IN:
        return Source(BUILT_IN, "digits", "", "scikit-learn")
    if is_url(dataset):
        return Source(dataset.rstrip("/").split("/")[-1], "url", dataset.rstrip("/"), None)
    only_a_path = _is_a_path(dataset)
    hub_id = NAMED[dataset][0] if dataset in NAMED else dataset
    paths = [] if dataset in NAMED else [_expanded("--dataset", dataset)]
    if root and not only_a_path:
        paths = [root / dataset, *paths, root / Path(hub_id).name]
    for path in paths if dataset else []:
        if is_folder(path):
            return _folder_source(path)
    if dataset in NAMED or (not only_a_path and re.fullmatch(r"[\w.-]+/[\w.-]+", dataset)):
        return Source(dataset.split("/")[-1], "hub", hub_id, None)
    if "/" in dataset or only_a_path:
        raise UserError(f"--dataset {dataset}: there is no such folder")
    hint = did_you_mean(near(dataset, NAMED, 1), after=" ")
    raise UserError(
        f"unknown data set '{dataset}': {hint}give one of {', '.join(NAMED)}, a folder, or a Hub id (owner/name)"
    )


def from_anywhere(dataset: str, data_dir: str | None) -> tuple[str, str | None]:
    """`dataset` and `data_dir` as they would have to be given in any other folder to mean the same: paths absolute.

    Raises:
        UserError: as `find_source`.
    """
    source = find_source(dataset, data_dir)
    root = str(Path(data_dir).expanduser().absolute()) if data_dir else None
    if source.kind not in ("tree", "parquet") or dataset in NAMED:
        return dataset, root
    path = Path(dataset).expanduser().absolute()
    return str(path) if str(path.resolve()) == source.where else dataset, root


def found_again(dataset: str, trained_with: str | None, data_dir: str | None) -> tuple[str, str | None]:
    """The `dataset` and `data_dir` by which to load the data set of a run, which may have been moved since.

    Args:
        dataset, trained_with: --dataset and --data-dir of the run.
        data_dir: where the data set is now: the folder that holds it, or its own folder where the run was of one. None:
            as in training, or where that is gone $SAMELOOP_DATA.

    Raises:
        UserError: there is no folder `data_dir`.
    """
    if trained_with and not is_folder(Path(trained_with).expanduser()):
        trained_with = None
    if not _is_a_path(dataset):
        return dataset, data_dir or trained_with or os.environ.get("SAMELOOP_DATA")
    folder = Path(dataset).expanduser()
    if data_dir:
        root = _expanded("--data-dir", data_dir)
        if not root.is_dir():
            raise UserError(f"--data-dir {data_dir}: there is no such folder")
        inner = root / folder.name
        return str((inner if is_folder(inner) else root).absolute()), None
    elsewhere = Path(os.environ.get("SAMELOOP_DATA", "")).absolute() / folder.name
    moved = not is_folder(folder) and is_folder(elsewhere)
    return str(elsewhere) if moved else dataset, None


def is_url(dataset: str) -> bool:
    """Whether it is an address that `fsspec` reads, such as s3://bucket/folder."""
    return re.match(r"\w+://.", dataset) is not None


def _is_a_path(dataset: str) -> bool:
    """Whether `dataset` can be nothing but a path."""
    return dataset.startswith((".", "~")) or Path(dataset).is_absolute()


def _expanded(option: str, path: str) -> Path:
    try:
        expanded = Path(path).expanduser()
        expanded.is_dir()
    except (RuntimeError, OSError) as error:  # of a user who is not; a name that is too long
        raise UserError(f"{option} {path}: there is no such folder") from error
    return expanded


def _folder_source(path: Path) -> Source:
    """A folder of parquet files where these hold images, whatever else lies beside them; else one of images."""
    name = path.resolve().name if path.name in ("", "..") else path.name
    folder = walk(path.resolve())
    where = folder.path
    parquet = [Path(name) for name in folder.file_names() if name.endswith(".parquet")]
    images = folder.holds_images()
    if not parquet and not images:
        raise UserError(
            f"the folder {where} holds neither parquet files nor images in one folder a class"
            + in_brackets(folder.left_out())
        )
    if not parquet or (images and not any(map(_holds_images, parquet))):
        pictures = filter(is_image, folder.file_names())
        return Source(name, "tree", str(where), _files_fingerprint(pictures, where), folder)
    cards = [path for path in folder.files_here() if path.name in CARDS]
    return Source(name, "parquet", str(where), _files_fingerprint(map(str, parquet + cards), where), folder)


def _holds_images(path: Path) -> bool:
    """Whether a parquet file has a column of encoded images; a table of what is known of images has none."""
    import pyarrow  # a moment, for the few folders that hold files of both kinds
    from pyarrow import parquet

    try:
        types = parquet.read_schema(path).types
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be opened: {error}; fix it, or move it away from the images") from error
    structs = [kind for kind in types if pyarrow.types.is_struct(kind)]
    types += [inner.type for kind in structs for inner in kind if inner.name == "bytes"]
    return any(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) for kind in types)


def _files_fingerprint(files: Iterable[str], root: Path) -> str:
    """Changes when a name, a size or a time of change below `root` does."""
    above = len(str(root / "_")) - 1
    try:
        digest = hashlib.sha256(str(root.resolve()).encode())
        for path in files:
            status = os.stat(path)  # noqa: PTH116 - there may be a million, and a Path takes twice the time
            digest.update(f"{path[above:]}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    except UnicodeEncodeError as error:
        raise UserError(f"the name {error.object!a} is not UTF-8: rename it") from error
    return digest.hexdigest()

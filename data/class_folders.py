"""Folders of images, one a class, below folders for train, validation and test or without them."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.folders import Folder, in_brackets, left_out_in_words
from data.remarks import named
from data.split_names import named_splits, splits_in


@dataclass(frozen=True)
class ClassFolders:
    """What a folder of class folders holds.

    Attributes:
        splits: the folder of each class, by split: "train", and "validation" and "test" where there are such.
        unlabelled: images of a test split that has no class folders.
        remarks: what was left out, and how the folders were understood where they could be understood otherwise.
    """

    splits: dict[str, dict[str, Folder]]
    unlabelled: list[Path]
    remarks: list[str]


def same_form(name: str) -> str:
    """A name to compare by: its accents in one of the two forms that Unicode has for them."""
    return unicodedata.normalize("NFC", name)


def same_names(names: list[str], others: list[str]) -> bool:
    """Whether two lists of classes read the same."""
    return list(map(same_form, names)) == list(map(same_form, others))


def alike(class_names: Iterable[str]) -> list[str]:
    """A remark on names that differ in capital letters alone, if there are any."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(same_form(name).casefold(), name), name) for name in class_names]
    alike = [f"{one} and {other}" for one, other in pairs if one != other]
    return [f"classes that differ in capital letters alone: {named(alike)}"] if alike else []


def read_class_folders(root: Folder) -> ClassFolders:
    """Tell splits and classes from the names of folders.

    Folders are splits where nothing but splits lies beside them, or where train holds folders of images and
    validation or test is there too; else they are classes.

    Raises:
        UserError: no class folders, one without an image, or two of one name.
    """
    root = _unwrapped(root)
    folders, others, remarks = _split_folders(root)
    unlabelled = []
    if "train" in folders and "test" in folders and _is_flat(folders["test"]):
        unlabelled = folders.pop("test").images_here()
    splits = {split: _classes(folder, split) for split, folder in folders.items()}
    left_out = root.left_out()
    read = len(unlabelled) + sum(folder.count_images() for classes in splits.values() for folder in classes.values())
    left_out["beside the class folders"] = root.count_images() - read - sum(other.count_images() for other in others)
    if +left_out:
        remarks.append(left_out_in_words(+left_out))
    return ClassFolders(splits, unlabelled, remarks)


def _unwrapped(folder: Folder) -> Folder:
    """The folder, or the one of its own name that is all it holds of images, as unpacked archives have it."""
    inner = [other for other in folder.folders() if other.holds_images()]
    if len(inner) == 1 and inner[0].path.name == folder.path.name and not folder.images_here():
        return _unwrapped(inner[0])
    return folder


def _split_folders(root: Folder) -> tuple[dict[str, Folder], list[Folder], list[str]]:
    """(the folder of each split, folders that are none and hold images, remarks)."""
    full = {folder.path.name: folder for folder in root.folders() if folder.holds_images()}
    called = [name for name in full if splits_in(name)]
    if not called:
        return {"train": root}, [], []
    others = [name for name in full if name not in called]
    if others and not _trains_and_tests(full, called):
        remark = f"taken for classes, not for splits: {_listed(called)} (beside {_listed(others)})"
        return {"train": root}, [], [remark]
    found = named_splits(called, str(root.path))
    others = [name for name in full if name not in found.values()]
    counts = {name: full[name].count_images() for name in others}
    remarks = [f"the folder {name}/ is left out: {n:,} images that no split holds" for name, n in counts.items()]
    empty = [folder.path.name for folder in root.folders() if not folder.holds_images()]
    remarks += [f"the folder {name}/ is left out: it holds no image" for name in empty if splits_in(name)]
    return {split: _unwrapped(full[name]) for split, name in found.items()}, [full[name] for name in others], remarks


def _trains_and_tests(full: dict[str, Folder], called: list[str]) -> bool:
    """Whether there is a train folder that holds folders of images, not images, and a folder of another split."""
    trains = [full[name] for name in called if splits_in(name) == ["train"]]
    held_out = [name for name in called if "train" not in splits_in(name)]
    return bool(held_out) and any(not folder.images_here() for folder in map(_unwrapped, trains))


def _is_flat(folder: Folder) -> bool:
    """Whether it holds images, and no folder that holds any."""
    return bool(folder.images_here()) and not any(inner.holds_images() for inner in folder.folders())


def _classes(root: Folder, split: str) -> dict[str, Folder]:
    """The folder of each class, in the order of the classes' names."""
    folders = root.folders()
    if not folders:
        raise UserError(f"the folder {root.path} has no folder for each class: put images into <class name>/ in it")
    found: dict[str, Folder] = {}
    names: dict[str, Path] = {}
    for folder in folders:
        other = names.setdefault(same_form(folder.path.name), folder.path)
        if other != folder.path:
            raise UserError(
                f"the class folders {other} and {folder.path} differ in the form of their accents alone: merge them"
            )
        if folder.holds_images():
            found[folder.path.name] = folder
        elif split == "train":  # another split may lack a class
            raise UserError(
                f"the class folder {folder.path} holds no image{in_brackets(folder.left_out())}: put images there or "
                "remove the folder"
            )
    return found


def _listed(names: list[str]) -> str:
    some = ", ".join(f"{name}/" for name in names[:3])
    return f"{some}, ..." if len(names) > 3 else some

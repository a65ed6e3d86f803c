"""Which classes of a data set pretrained weights know already, by name, so that a new head can begin with those."""

import torch
from torch import Tensor, nn

from data.class_folders import same_form


def known_rows(classes: list[str], head: list[str], found: dict[str, Tensor], content: dict) -> dict[int, int]:
    """Which row of the weights' head stands for which label of `classes`, where that is known.

    Args:
        classes: the data set's, in the order of its labels.
        head: names of the head's weights, at least one.
        found: the weights, by name; those of the head with a row for each class that they know.
        content: the file that they come from; ours names its classes, others are taken to know ImageNet's, in timm's
            order, where they have as many.
    """
    if "class_names" in content:
        return shared(classes, [[name] for name in content["class_names"]])
    return shared(classes, _imagenet(len(found[head[0]])))


def start_head(model: nn.Module, head: list[str], found: dict[str, Tensor], rows: dict[int, int]) -> None:
    """Copy the `rows` (label: row) of the weights named in `head` from `found` into `model`."""
    with torch.no_grad():
        for name in head:
            parameter = model.get_parameter(name)
            parameter[list(rows)] = found[name][list(rows.values())].to(parameter.dtype)


def shared(classes: list[str], known: list[list[str]]) -> dict[int, int]:
    """Which of `classes` is which of `known`, each with its synonyms; names of several of `known` stand for none."""
    indices: dict[str, set[int]] = {}
    for index, synonyms in enumerate(known):
        for synonym in synonyms:
            indices.setdefault(_plain(synonym), set()).add(index)
    found = {label: indices.get(_plain(name), set()) for label, name in enumerate(classes)}
    return {label: next(iter(rows)) for label, rows in found.items() if len(rows) == 1}


def _plain(name: str) -> str:
    """Without what file systems and habits change: case, the form of accents, and what stands between words."""
    return " ".join(same_form(name).lower().replace("_", " ").replace("-", " ").split())


def _imagenet(num_classes: int) -> list[list[str]]:
    """Synset and synonyms of each of ImageNet's classes, of that edition which has so many; else nothing."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    edition = infer_imagenet_subset({"num_classes": num_classes})
    if edition is None:
        return []
    info = ImageNetInfo(edition)
    synsets = info.label_names()
    return [[synsets[row], *info.index_to_description(row).split(",")] for row in range(num_classes)]

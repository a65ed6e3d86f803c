"""A head that begins with what pretrained weights know of the classes that they share with the data set, by name."""

import torch
from torch import Tensor, nn

from engine.errors import UserError


def start_head(model: nn.Module, head: list[str], found: dict[str, Tensor], content: dict, classes: list[str]) -> int:
    """Copy rows of the head in `found` to those of `model` whose class has the same name; return how many.

    Args:
        model: whose parameters named in `head` have a row for each of `classes`.
        found: the weights, by name.
        content: the file that they come from; ours names its classes, others are taken to know ImageNet's, in timm's
            order, where they have as many.
        classes: the data set's, in the order of its labels.

    Raises:
        UserError: it is not known which classes the weights know, or none is among `classes`.
    """
    head = [name for name in head if name in found and found[name].shape[1:] == model.get_parameter(name).shape[1:]]
    known = [[name] for name in content["class_names"]] if "class_names" in content else _imagenet(found, head)
    rows = shared(classes, known)
    if not rows:
        raise UserError(
            f"--match-classes: none of the classes ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}) is "
            f"among the {len(known)} that the weights name: leave it out"
        )
    with torch.no_grad():
        for name in head:
            model.get_parameter(name)[list(rows)] = found[name][list(rows.values())].float()
    return len(rows)


def shared(classes: list[str], known: list[list[str]]) -> dict[int, int]:
    """Which of `classes` is which of `known`, each with its synonyms; names of several of `known` stand for none."""
    places: dict[str, set[int]] = {}
    for place, synonyms in enumerate(known):
        for synonym in synonyms:
            places.setdefault(_plain(synonym), set()).add(place)
    found = {label: places.get(_plain(name), set()) for label, name in enumerate(classes)}
    return {label: next(iter(rows)) for label, rows in found.items() if len(rows) == 1}


def _plain(name: str) -> str:
    """Without what file systems and habits change: case, and what stands between words."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _imagenet(found: dict[str, Tensor], head: list[str]) -> list[list[str]]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    rows = len(found[head[0]]) if head else 0
    subset = infer_imagenet_subset({"num_classes": rows})
    if subset is None:
        raise UserError(f"--match-classes: nothing says which the {rows} classes of the weights are: leave it out")
    info = ImageNetInfo(subset)
    synsets = info.label_names()
    return [[synsets[row], *info.index_to_description(row).split(",")] for row in range(rows)]

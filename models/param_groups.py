"""A net's layers in order, from its input to its head: which of them are frozen, and how fast each learns."""

from torch import nn

from common.errors import ImpossibleOptions


def heads(model: nn.Module) -> list[nn.Module]:
    """The layers that give the answer: the classifiers that timm names, else the last linear or convolutional layer."""
    find = getattr(model, "get_classifier", None)
    named = (find() if find else None) or model
    found = []
    for part in named if isinstance(named, tuple | list) else [named]:
        found += [m for m in part.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    return found


def head_names(model: nn.Module) -> set[str]:
    """Names of the parameters of `heads`."""
    of_heads = {id(parameter) for head in heads(model) for parameter in head.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in of_heads}


def groups_in_order(model: nn.Module) -> list[list[str]]:
    """Names of the parameters in groups of layers, from input to head: timm's own grouping, else the net's parts.

    A part is a child of the net, or of a sequence that is its child; parameters of the net itself are in the first.
    """
    if hasattr(model, "group_matcher"):
        from timm.models import group_parameters

        found = group_parameters(model, model.group_matcher(coarse=False))
        return [found[number] for number in sorted(found)]
    groups = [[name for name, _ in model.named_parameters(recurse=False)]]
    for name, child in model.named_children():
        parts = child.named_children() if isinstance(child, nn.Sequential | nn.ModuleList) else [("", child)]
        for inner, part in parts:
            prefix = f"{name}.{inner}." if inner else f"{name}."
            groups.append([prefix + parameter for parameter, _ in part.named_parameters()])
    return [group for group in groups if group]


def lr_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied by: 1 in the last group, `decay` times less a group back.

    Layer-wise decay is from Clark et al. 2020 (ELECTRA, arXiv:2003.10555).
    """
    if decay == 1:
        return {name: 1.0 for name, _ in model.named_parameters()}
    groups = groups_in_order(model)
    return {name: decay ** (len(groups) - 1 - depth) for depth, group in enumerate(groups) for name in group}


def check_frozen(model: nn.Module, parts: list[str]) -> None:
    """Raise ImpossibleOptions unless each of `parts` (see `freeze`) can be frozen and leaves something to learn."""
    most = len(groups_in_order(model)) - 1
    for part in parts:
        if part.isdigit() and int(part) > most:
            raise ImpossibleOptions(
                f"--freeze {part}: this net has {most + 1} groups of layers: give {most} or less, or head"
            )


def freeze(model: nn.Module, part: str) -> None:
    """Set the net up for training with a part of it left as it is, its batch-norm statistics too.

    Args:
        model: without what was wrapped around it.
        part: "none", "head" for all but the head, or the number of groups of layers, from the input.
    """
    frozen: set[str] = set()
    if part == "head":
        frozen = {name for name, _ in model.named_parameters()} - head_names(model)
    elif part != "none":
        frozen = {name for group in groups_in_order(model)[: int(part)] for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()

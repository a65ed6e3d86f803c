"""What a layer did, and a layer in PyTorch's other forms."""

import warnings

import torch
from torch import nn


def steps_back(outputs: torch.Tensor) -> str:
    """The names of all steps of the backward pass from these outputs."""
    names, nodes = [], [outputs.grad_fn]
    while nodes:
        node = nodes.pop()
        names.append(node.name())
        nodes += [before for before, _ in node.next_functions if before is not None]
    return " ".join(names)


FORMS = ("trace", "script", "export", "compile")


def in_form(form: str, module: nn.Module, images: torch.Tensor) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated
        return {
            "trace": lambda: torch.jit.trace(module, images),
            "script": lambda: torch.jit.script(module),
            "export": lambda: torch.export.export(module, (images,)).module(),
            "compile": lambda: torch.compile(module, backend="aot_eager", fullgraph=True),
        }[form]()

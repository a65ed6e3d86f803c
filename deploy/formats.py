"""The files: ONNX, torch.export's .pt2, TorchScript. Each holds the whole classifier and the names of its classes."""

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import torch

from common.errors import UserError
from common.version import VERSION
from deploy.classifier import Classifier, example

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FILE_NAMES = {"onnx": "model.onnx", "pt2": "model.pt2", "torchscript": "model.torchscript"}
CLASS_NAMES = "class_names"  # in the metadata of an ONNX file; with .json, a file in the archives of the two others
INPUT, OUTPUT = "pictures", "probabilities"
OPTIONAL = ("onnx", "onnxscript", "onnxruntime")


def check_installed(formats: Sequence[str]) -> None:
    """Refuse ONNX where its packages are missing.

    Raises:
        UserError: they are, with how to install them.
    """
    missing = [name for name in OPTIONAL if "onnx" in formats and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install {' '.join(OPTIONAL)}")


def encode(format: str, classifier: Classifier, class_names: list[str]) -> bytes:
    """A file of `format`, a key of FILE_NAMES.

    Raises:
        UserError: the model does not lend itself to it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; tracing warns of what the check would find
            return ENCODERS[format](classifier, json.dumps(class_names, ensure_ascii=False))
    except Exception as error:  # PyTorch's exporters can fail in any way, and other formats are still to be had
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--format {format}: the model cannot be written so ({type(error).__name__}: {reason}); leave it out"
        ) from error


def record(classifier: Classifier) -> "ExportedProgram":
    """The classifier's graph, of any number of pictures of any one size."""
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(classifier, (example(),), dynamic_shapes=({0: dynamic, 1: dynamic, 2: dynamic},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which would tell the folders of this machine
    return program


def _onnx(classifier: Classifier, class_names: str) -> bytes:
    made = torch.onnx.export(record(classifier), dynamo=True, verbose=False, output_names=[OUTPUT])
    if made is None:  # its type allows for that
        raise ValueError("the exporter made nothing")
    model = made.model_proto
    _name_sizes(model.graph)
    metadata = {
        CLASS_NAMES: class_names,
        "input": "uint8 RGB (batch, height, width, 3)",
        "producer": f"Sameloop {VERSION}",
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _name_sizes(graph: object) -> None:
    """Call the sizes that are left open by what they are."""
    named = {}
    for dimension, name in zip(graph.input[0].type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False):
        if dimension.dim_param:
            named[dimension.dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in named:
                dimension.dim_param = named[dimension.dim_param]


def _pt2(classifier: Classifier, class_names: str) -> bytes:
    buffer = BytesIO()
    torch.export.save(record(classifier), buffer, extra_files={f"{CLASS_NAMES}.json": class_names})
    return buffer.getvalue()


def _torchscript(classifier: Classifier, class_names: str) -> bytes:
    """The network is traced, at its one size; what comes before it is compiled, as it depends on the picture's size."""
    traced = torch.jit.trace(classifier.network, torch.zeros(2, *classifier.input_shape))
    whole = Classifier(traced, classifier.prepare, classifier.temperature, classifier.input_shape).eval()
    buffer = BytesIO()
    torch.jit.save(torch.jit.script(whole), buffer, _extra_files={f"{CLASS_NAMES}.json": class_names})
    return buffer.getvalue()


ENCODERS: dict[str, Callable[[Classifier, str], bytes]] = {"onnx": _onnx, "pt2": _pt2, "torchscript": _torchscript}

"""Running an exported file: its class names, and probabilities for pictures."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from deploy.formats import CLASS_NAMES, FILE_NAMES, check_installed

SUFFIXES = {Path(name).suffix: format for format, name in FILE_NAMES.items()}


@dataclass(frozen=True)
class Exported:
    """A file of export.py, ready to run on the CPU.

    Attributes:
        class_names: of each class.
        predict: uint8 RGB (B, H, W, 3) of any one size -> probabilities, float32 (B, K).
    """

    class_names: list[str]
    predict: Callable[[np.ndarray], np.ndarray]


def load(path: Path) -> Exported:
    """Read a .onnx, .pt2 or .torchscript file of export.py. TorchScript can hold any program: load no stranger's.

    Raises:
        UserError: there is no such file, it is none of export.py's, or a package that it needs is missing.
    """
    format = SUFFIXES.get(path.suffix)
    if format is None:
        raise UserError(f"{path}: its name must end in {', '.join(SUFFIXES)}")
    check_installed([format])
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            class_names, predict = LOADERS[format](path)
        return Exported(json.loads(class_names), predict)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path}: not a file of export.py, or a damaged one ({type(error).__name__})") from error


Parts = tuple[str, Callable[[np.ndarray], np.ndarray]]


def _onnx(path: Path) -> Parts:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return (
        session.get_modelmeta().custom_metadata_map[CLASS_NAMES],
        lambda pictures: session.run(None, {name: np.ascontiguousarray(pictures)})[0],
    )


def _pt2(path: Path) -> Parts:
    stored = {f"{CLASS_NAMES}.json": ""}
    module = torch.export.load(path, extra_files=stored).module()
    return stored[f"{CLASS_NAMES}.json"], of_module(module)


def _torchscript(path: Path) -> Parts:
    stored = {f"{CLASS_NAMES}.json": ""}
    module = torch.jit.load(path, map_location="cpu", _extra_files=stored)
    names = stored[f"{CLASS_NAMES}.json"]
    return names.decode() if isinstance(names, bytes) else names, of_module(module)


def of_module(module: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    """A PyTorch module as `Exported.predict` is."""

    def predict(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            # PyTorch takes no array that must not be written to, as Pillow gives them.
            return module(torch.from_numpy(np.require(pictures, requirements=("C", "W")))).numpy()

    return predict


LOADERS: dict[str, Callable[[Path], Parts]] = {"onnx": _onnx, "pt2": _pt2, "torchscript": _torchscript}

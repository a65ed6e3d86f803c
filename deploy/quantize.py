"""An ONNX file of 8-bit weights and activations, their ranges taken from training images; the resizing stays exact."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

QUANTIZED = ["Conv", "Gemm", "MatMul"]
PREPARE = "prepare"  # the module of deploy/classifier.py, whose products with matrices are the resizing
SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter notes which module a node is of


def quantize(source: Path, target: Path, pictures: Iterator[np.ndarray]) -> None:
    """Write `target`, the network of `source` in 8 bits: weights a scale each output channel, activations one a tensor.

    Args:
        source: an ONNX file of `deploy/formats.py`.
        target: to be written.
        pictures: to calibrate on, batches of uint8 RGB (B, H, W, 3).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict | None:
            batch = next(pictures, None)
            return None if batch is None else {name: batch}

    model = onnx.load(str(source))
    name = model.graph.input[0].name
    exact = [node.name for node in model.graph.node if _of_prepare(node)]
    logging.getLogger().addFilter(_not_advice)
    try:
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=exact,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},  # the products of attention have no weights
        )
    finally:
        logging.getLogger().removeFilter(_not_advice)


def _of_prepare(node: object) -> bool:
    return any(entry.key == SCOPES and f"'{PREPARE}'" in entry.value for entry in node.metadata_props)


def _not_advice(record: logging.LogRecord) -> bool:
    """Whether a line is other than the quantizer's advice to optimize the graph first, which the exporter has done."""
    return "pre-processing" not in record.getMessage()

"""INT8 after training: Q/DQ nodes around what an engine computes in 8 bits.

Weights are symmetric and per channel (arXiv 1806.08342, §3). Activations come in two forms, because
engines differ: "s8", symmetric int8, which TensorRT asks for, and "u8", asymmetric uint8, which
ONNX Runtime is fast in on x86.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data.samples import Pixels, Samples

Scheme = Literal["s8", "u8"]

PERCENTILE = 99.99

_ACTIVATIONS = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
}
_BATCH = 32
# The layers whose arithmetic is worth 8 bits; what stands before the first and behind the last of
# them is normalisation, softmax and argmax.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Calibration:
    """The images on which ranges are measured, uint8 [N, H, W, 3], and the sha256 of their
    shape and pixels."""

    images: Pixels
    sha256: str


def choose_calibration(samples: Samples, count: int, seed: int) -> Calibration:
    """A random subset of the training images, as the evaluation transform shows them; all of them
    where there are fewer than `count`."""
    order = np.random.default_rng(seed).permutation(len(samples))[:count]
    images, _ = samples.batch(np.sort(order))
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    return Calibration(images, digest.hexdigest())


def quantize(
    float_file: Path, path: Path, scheme: Scheme, calibrate: str, calibration: Calibration
) -> None:
    """Writes the INT8 form of an FP32 file. Normalisation before the first layer and everything
    behind the last one stay in floating point, as do the logits themselves."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quantized = Path(folder) / "quantized.onnx"
        # Only ONNX's shape inference: the symbolic one leaves files in the working directory, and
        # the optimiser joins the casts that TensorRT wants apart. Batch norms are folded already.
        quant_pre_process(
            str(float_file), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        graph = onnx.load(prepared).graph
        options: dict[str, Any] = {"ActivationSymmetric": scheme == "s8", "WeightSymmetric": True}
        # TensorRT dequantises int8 only, and adds biases in floating point.
        options["QuantizeBias"] = scheme == "u8"
        if calibrate == "percentile":
            options["CalibPercentile"] = PERCENTILE
        # The percentile method prints its ranges.
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                str(prepared),
                str(quantized),
                _Reader(graph.input[0].name, calibration.images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=_ACTIVATIONS[scheme],
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(before_layers(graph) | behind_layers(graph)),
                calibrate_method=_METHODS[calibrate],
                extra_options=options,
            )
        model = onnx.load(quantized)
    _remove_needless_pairs(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def before_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes through which the input reaches the first layer."""
    reached = {value.name for value in graph.input}
    names: set[str] = set()
    for node in graph.node:  # in topological order, as ONNX demands
        if node.op_type not in _LAYERS and reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    # A skip connection around the first layer would lead to everything: follow single paths only.
    return names - _behind_any_layer(graph)


def _behind_any_layer(graph: onnx.GraphProto) -> set[str]:
    reached: set[str] = set()
    names: set[str] = set()
    for node in graph.node:
        if node.op_type in _LAYERS or reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    return names


def behind_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that no layer follows: from the logits to the outputs."""
    needed: set[str] = set()
    names: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _LAYERS or needed & set(node.output):
            needed |= set(node.input)
        else:
            names.add(node.name)
    return names


def _remove_needless_pairs(graph: onnx.GraphProto) -> None:
    """Takes away two kinds of Q/DQ pairs that only cost accuracy.

    Before a ReLU: rounding what the ReLU then cuts wastes half of the levels, and keeps TensorRT
    from fusing the two. Behind the last layer: rounding logits to 8 bits saves nothing and makes
    equal what the argmax should tell apart.
    """
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for second in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        first = makers.get(second.input[0])
        maker = makers.get(first.input[0]) if first is not None else None
        if first is None or maker is None:
            continue
        behind = users.get(second.output[0], [])
        before_relu = bool(behind) and all(user.op_type == "Relu" for user in behind)
        is_logits = maker.op_type in _LAYERS and not _feeds_layer(second, users)
        if not (before_relu or is_logits) or len(users[first.output[0]]) > 1:
            continue
        if second.output[0] in outputs:
            # The graph's output keeps its name: the layer takes it over.
            maker.output[0] = second.output[0]
        for user in behind:
            user.input[list(user.input).index(second.output[0])] = first.input[0]
        graph.node.remove(second)
        graph.node.remove(first)


def _feeds_layer(node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]]) -> bool:
    waiting = [node]
    seen: set[str] = set()
    while waiting:
        for output in waiting.pop().output:
            for user in users.get(output, []):
                if user.op_type in _LAYERS:
                    return True
                if user.name not in seen:
                    seen.add(user.name)
                    waiting.append(user)
    return False


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the calibration images to the runtime in batches."""

    def __init__(self, input_name: str, images: Pixels) -> None:
        self._batches: Iterator[dict[str, Pixels]] = (
            {input_name: np.ascontiguousarray(images[start : start + _BATCH])}
            for start in range(0, len(images), _BATCH)
        )

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._batches, None)

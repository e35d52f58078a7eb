"""Finds nodes that TensorRT would refuse, before TensorRT is asked, by name.

The rules are those of NVIDIA's documentation for strongly typed networks with explicit quantisation
("Working with Quantized Types", "Data types"): symmetric INT8 in pairs of Q and DQ, one element
type to all inputs of an operation, and bytes at the edge of the network only.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operations whose inputs, those of any float type, are all of one type.
_ONE_TYPE = (
    *_LAYERS, "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Concat", "PRelu", "Where",
    "BatchNormalization", "InstanceNormalization", "LayerNormalization",
)  # fmt: skip
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_KNOWN = (
    *_FLOATS, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
    TensorProto.UINT8,
)  # fmt: skip


def tensorrt_problems(path: Path) -> list[str]:
    """A line for each node that TensorRT would refuse; empty where it would take the file."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    return list(_Rules(graph).problems())


class _Rules:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {part.name: part for part in graph.initializer}
        self._inputs = {value.name for value in graph.input}
        self._outputs = {value.name for value in graph.output}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        typed = [*graph.input, *graph.output, *graph.value_info]
        self._types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self._types |= {part.name: part.data_type for part in graph.initializer}

    def problems(self) -> Iterator[str]:
        for node in self._graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield from self._quantisation(node)
            if node.op_type in _LAYERS:
                yield from self._both_quantised(node)
            if node.op_type in _ONE_TYPE:
                yield from self._one_type(node)
            yield from self._bytes_at_the_edge(node)

    def _quantisation(self, node: onnx.NodeProto) -> Iterator[str]:
        if node.input[1] not in self._weights:
            yield f"{_named(node)}: its scale is not a constant"
        yield from self._scale(node)
        zero = self._weights.get(node.input[2]) if len(node.input) > 2 else None
        kind = zero.data_type if zero is not None else self._types.get(node.input[0])
        if kind == TensorProto.UINT8 or (zero is None and len(node.input) < 3):
            yield f"{_named(node)}: quantises to uint8, TensorRT to int8 only"
        elif kind == TensorProto.INT32:
            yield f"{_named(node)}: dequantises int32 (a bias), TensorRT int8 only"
        if zero is not None and np.any(numpy_helper.to_array(zero)):
            yield f"{_named(node)}: its zero point is not 0 (asymmetric quantisation)"
        if node.op_type == "QuantizeLinear":
            users = self._users.get(node.output[0], [])
            if node.output[0] in self._outputs or any(
                user.op_type != "DequantizeLinear" for user in users
            ):
                yield f"{_named(node)}: no DequantizeLinear behind it"
            return
        maker = self._makers.get(node.input[0])
        if node.input[0] not in self._weights and (
            maker is None or maker.op_type != "QuantizeLinear"
        ):
            yield f"{_named(node)}: no QuantizeLinear before it"

    def _scale(self, node: onnx.NodeProto) -> Iterator[str]:
        part = self._weights.get(node.input[1])
        if part is None:
            return
        scale = numpy_helper.to_array(part)
        if not np.all(scale > 0):
            yield f"{_named(node)}: its scale is not positive throughout"
        kind = self._types.get(node.input[0])
        if kind in _FLOATS and part.data_type != kind:
            names = (TensorProto.DataType.Name(part.data_type), TensorProto.DataType.Name(kind))
            yield f"{_named(node)}: its scale is {names[0]}, what it quantises {names[1]}"
        if scale.size == 1:
            return
        if not self._is_constant(node):
            yield f"{_named(node)}: quantises activations by channel; TensorRT does by tensor only"
            return
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        for user in self._users.get(node.output[0], []):
            wanted = _output_axis(user)
            if wanted is not None and axis != wanted:
                yield (
                    f"{_named(node)}: its scales lie along axis {axis} of the weights of "
                    f"{_named(user)}, whose output channels are axis {wanted}"
                )

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether it quantises weights, itself or through the Q before it."""
        maker = self._makers.get(node.input[0])
        if node.op_type == "DequantizeLinear" and maker is not None:
            return maker.input[0] in self._weights
        return node.input[0] in self._weights

    def _both_quantised(self, node: onnx.NodeProto) -> Iterator[str]:
        makers = [self._makers.get(name) for name in node.input[:2]]
        are = [maker is not None and maker.op_type == "DequantizeLinear" for maker in makers]
        if any(are) and not all(are):
            which = "data" if are[1] else "weights"
            yield f"{_named(node)}: its {which} have no pair of Q and DQ, its other input has"

    def _one_type(self, node: onnx.NodeProto) -> Iterator[str]:
        kinds = {self._types.get(name) for name in node.input} & set(_FLOATS)
        if len(kinds) > 1:
            names = ", ".join(sorted(TensorProto.DataType.Name(kind) for kind in kinds if kind))
            yield f"{_named(node)}: its inputs are of different types ({names})"

    def _bytes_at_the_edge(self, node: onnx.NodeProto) -> Iterator[str]:
        for name in [*node.input, *node.output]:
            kind = self._types.get(name)
            if kind and kind not in _KNOWN:
                yield f"{_named(node)}: {name} is {TensorProto.DataType.Name(kind)}"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return
        bytes_in = [n for n in node.input if self._types.get(n) == TensorProto.UINT8]
        bytes_out = [n for n in node.output if self._types.get(n) == TensorProto.UINT8]
        for name in bytes_in:
            casts = node.op_type == "Cast" and self._types.get(node.output[0]) in _FLOATS
            if name not in self._inputs or not casts:
                yield f"{_named(node)}: takes uint8; only a Cast to float of an input may"
        for name in bytes_out:
            casts = node.op_type == "Cast" and self._types.get(node.input[0]) in _FLOATS
            if name not in self._outputs or not casts:
                yield f"{_named(node)}: gives uint8; only a Cast from float to an output may"


def _output_axis(node: onnx.NodeProto) -> int | None:
    """The number of a layer's weights; None for a node that is no layer."""
    if node.op_type == "Gemm":
        return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}.get(node.op_type)


def _named(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"

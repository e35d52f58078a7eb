"""FP16 by types: a file that says itself where it computes in half precision.

TensorRT 11 knows no other way, and any engine that reads ONNX runs it. What stands before the first
layer (normalisation of bytes) and behind the last (softmax, argmax) stays in FP32, as do inputs and
outputs: there is nothing to gain there, and rounding would decide ties between classes.

ONNX Runtime's converter rounds the normalisation on its way and gives two nodes of a U-Net one
name, so the few rules that our graphs need stand here.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.compress.graph.edges import before_layers, behind_layers
from training.errors import ExportError

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# Inputs that ONNX has in FP32 whatever the data is: the scales of Resize.
_ALWAYS_FLOAT = {"Resize": (2,)}
_LARGEST = float(np.finfo(np.float16).max)


def to_half(float_file: Path, path: Path) -> None:
    """Writes the FP16 form of an FP32 file. Raises ExportError where a weight is too large, or
    where an operator has no form in FP16."""
    model = onnx.shape_inference.infer_shapes(onnx.load(float_file))
    graph = model.graph
    # Nodes that stay in FP32 are known by name, and an exporter may leave nodes without one.
    for index, node in enumerate(graph.node):
        node.name = node.name or f"node_{index}"
    _Halving(graph).run()
    # The types of the tensors in between follow from the nodes.
    del graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        said = " ".join(str(error).split())[:300]
        raise ExportError(f"{float_file}: not all of it can be computed in FP16: {said}") from error
    onnx.save(model, path)


class _Halving:
    """One pass over a graph in its order, with a cast wherever the two precisions meet."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {part.name: part for part in graph.initializer}
        typed = [*graph.input, *graph.output, *graph.value_info]
        self._types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self._types |= {part.name: part.data_type for part in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        # By (name, type): the name under which a tensor is known in that type.
        self._known: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        stay = before_layers(self._graph) | behind_layers(self._graph)
        outputs = {value.name for value in self._graph.output}
        for node in list(self._graph.node):
            wanted = _FLOAT if node.name in stay else _HALF
            always_float = _ALWAYS_FLOAT.get(node.op_type, ())
            for position, name in enumerate(node.input):
                if self._types.get(name) == _FLOAT:
                    kind = _FLOAT if position in always_float else wanted
                    node.input[position] = self._as(name, kind)
            for attribute in node.attribute:
                if wanted == _HALF:
                    _halve(attribute)
            self._nodes.append(node)
            for position, name in enumerate(node.output):
                if wanted == _HALF and self._types.get(name) == _FLOAT:
                    node.output[position] = self._known[name, _HALF] = f"{name}_fp16"
                    if name in outputs:
                        self._as(name, _FLOAT)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        unused = [part for part in self._graph.initializer if part.name not in used]
        for part in unused:
            self._graph.initializer.remove(part)

    def _as(self, name: str, kind: int) -> str:
        """The name of a float tensor in this precision, which is made where it is not there yet."""
        if (name, kind) in self._known:
            return self._known[name, kind]
        made = name
        if name in self._weights:
            if kind == _HALF:
                made = f"{name}_fp16"
                self._graph.initializer.append(_halved(self._weights[name], made))
        elif kind == _HALF:
            made = f"{name}_fp16"
            self._nodes.append(helper.make_node("Cast", [name], [made], f"{made}_cast", to=_HALF))
        elif (name, _HALF) in self._known:
            half = self._known[name, _HALF]
            self._nodes.append(helper.make_node("Cast", [half], [name], f"{name}_cast", to=_FLOAT))
        self._known[name, kind] = made
        return made


def _halve(attribute: onnx.AttributeProto) -> None:
    """Turns casts to float and float constants inside a node to half."""
    if attribute.name == "to" and attribute.i == _FLOAT:
        attribute.i = _HALF
    if attribute.t.data_type == _FLOAT:
        attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))


def _halved(part: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(part)
    if values.size and float(np.abs(values).max()) > _LARGEST:
        raise ExportError(f"{part.name} holds values beyond {_LARGEST:.0f}, the largest of FP16")
    return numpy_helper.from_array(values.astype(np.float16), name)

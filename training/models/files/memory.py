"""The memory of a graph while it answers, from the shapes of its tensors."""

import math

import onnx
from onnx import helper


def activation_bytes(model: onnx.ModelProto, name: str, image: tuple[int, ...]) -> int:
    """Bytes of the tensors that live together at most while a graph of `source.read_source` answers
    one image, which its input `name` takes as [batch, *image]. `model` is changed.

    A tensor lives from the node that makes it to the last that reads it. Tensors whose shapes
    cannot be inferred, and the scratch memory of operators, count nothing.
    """
    graph = model.graph
    rows = 1
    for value in graph.input:
        if value.name == name:
            first, *others = value.type.tensor_type.shape.dim
            rows = first.dim_value = max(1, first.dim_value)
            for dim, size in zip(others, image, strict=True):
                dim.dim_value = size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {
        value.name: _bytes(value)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    readers = {read: index for index, node in enumerate(graph.node) for read in node.input}
    readers |= {value.name: len(graph.node) for value in graph.output}
    ends: dict[int, list[str]] = {}
    live = {value.name: sizes.get(value.name, 0) for value in graph.input}
    for read, index in readers.items():
        ends.setdefault(index, []).append(read)
    held = peak = sum(live.values())
    for index, node in enumerate(graph.node):
        made = {output: sizes.get(output, 0) for output in node.output}
        live |= made
        held += sum(made.values())
        peak = max(peak, held)
        gone = [*ends.get(index, ()), *(output for output in made if output not in readers)]
        held -= sum(live.pop(read, 0) for read in gone)
    return math.ceil(peak / rows)


def _bytes(value: onnx.ValueInfoProto) -> int:
    kind = value.type.tensor_type
    if kind.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return 0
    values = math.prod(dim.dim_value or 1 for dim in kind.shape.dim)
    return values * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize

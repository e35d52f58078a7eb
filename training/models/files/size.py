"""Parameters and arithmetic of a graph, as models.complexity counts those of a network."""

import math

import onnx

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def count_graph(model: onnx.ModelProto) -> tuple[int, int]:
    """Values of the constants that layers and norms read, and the multiply-accumulates of layers
    for one image; layers whose shapes cannot be inferred count none."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {
        # The batch is the one dimension without a number.
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    constants = {part.name: part for part in graph.initializer if part.data_type in _FLOATS}
    shapes |= {name: list(part.dims) for name, part in constants.items()}
    parameters = sum(math.prod(part.dims) for part in constants.values())
    macs = 0
    for node in graph.node:
        if node.op_type in _LAYERS and node.output[0] in shapes and node.input[1] in shapes:
            macs += _macs(node, shapes)
    return parameters, macs


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    weights, output = shapes[node.input[1]], math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return output * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":
        # Each value of the input meets every weight of its channel.
        return math.prod(shapes.get(node.input[0], [0])) * math.prod(weights[1:])
    if node.op_type == "Gemm":
        turned = any(part.name == "transB" and part.i for part in node.attribute)
        return output * weights[1 if turned else 0]
    return output * (weights[-2] if len(weights) > 1 else weights[0])

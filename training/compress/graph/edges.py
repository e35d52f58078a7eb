"""The nodes of a graph that stay in floating point, whatever its layers compute in."""

from collections.abc import Collection

import onnx

# Operations that gain from 8 bits. Normalisation comes before the first of them in a network,
# softmax and argmax after the last.
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operations, with the position of the input that must not become 0, and those that only move, bound
# or shift it on its way there.
_DIVISORS = {"Div": 1, "Sqrt": 0, "Reciprocal": 0}
_PASSING = ("Add", "Clip", "Expand", "Max", "Mul", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
# Operations that only move values.
_MOVING = ("Concat", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def before_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes through which the input reaches the first layer."""
    reached = {value.name for value in graph.input}
    names: set[str] = set()
    for node in graph.node:  # in topological order, as ONNX demands
        if node.op_type not in LAYERS and reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    # Through a skip connection around the first layer the input reaches later nodes too.
    return names - _behind_any_layer(graph)


def _behind_any_layer(graph: onnx.GraphProto) -> set[str]:
    reached: set[str] = set()
    names: set[str] = set()
    for node in graph.node:
        if node.op_type in LAYERS or reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    return names


def behind_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes after which no layer comes: from the logits to the outputs."""
    needed: set[str] = set()
    names: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in LAYERS or needed & set(node.output):
            needed |= set(node.input)
        else:
            names.add(node.name)
    return names


def divisors(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes whose results something is divided by, or a root taken of: rounded, the
    small ones among them would become 0."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting = [
        node.input[_DIVISORS[node.op_type]] for node in graph.node if node.op_type in _DIVISORS
    ]
    names: set[str] = set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type in _PASSING and node.name not in names:
            names.add(node.name)
            waiting += node.input
    return names


def cubic_resizes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that resize in a way that ONNX Runtime does not know in 8 bits."""
    return {
        node.name
        for node in graph.node
        if node.op_type == "Resize"
        and any(
            (part.name, part.s) == ("mode", b"cubic") or (part.name == "antialias" and part.i)
            for part in node.attribute
        )
    }


def residual_streams(graph: onnx.GraphProto, biases: Collection[str]) -> set[str]:
    """Names of the sums that normalisations of tokens read, as in the pre-norm blocks of
    transformers, of these normalisations (LayerNormalization), and of what moves values or takes
    their mean between the two: the CPU engines gain nothing from 8 bits there, and each rounding
    would add its error to the stream.

    Sums that a convolution reads directly stay rounded: engines compute convolutions in 8 bits only
    between two roundings. So does what moves a layer's values before a sum: OpenVINO 2026.4 would
    not move its scales with them.

    biases: names of the nodes that add one, which are no sums.
    """
    passed = (*_MOVING, "ReduceMean")
    convolved = {node.input[0] for node in graph.node if node.op_type == "Conv"}
    summed: set[str] = set()
    for node in graph.node:  # in topological order, as ONNX demands
        sums = node.op_type == "Concat" or (node.op_type == "Add" and node.name not in biases)
        if sums or (node.op_type in passed and node.input[0] in summed):
            summed |= set(node.output)
    wanted: set[str] = set()
    names: set[str] = set()
    for node in reversed(graph.node):
        made = (wanted & summed & set(node.output)) - convolved
        if node.op_type == "LayerNormalization" and node.input[0] in summed:
            names.add(node.name)
            wanted.add(node.input[0])
        elif made and node.op_type in ("Add", *passed):
            names.add(node.name)
            wanted |= set(node.input)
    return names


def patches(graph: onnx.GraphProto) -> set[str]:
    """Names of the first layers and of the nodes that only move their values on, where the network
    reads the batch size at run time, as vision transformers do for class tokens.

    OpenVINO 2026.4 reads that size from the output of the first convolution, which then cannot take
    its bias; where the sum of both is rounded, it adds the first channel's bias to all channels.
    """
    if all(node.op_type != "Shape" for node in graph.node):
        return set()
    before = before_layers(graph)
    reached = {value.name for value in graph.input}
    moved: set[str] = set()
    names: set[str] = set()
    for node in graph.node:
        if node.name in before:
            reached |= set(node.output)
        elif (node.op_type in LAYERS and reached & set(node.input)) or (
            node.op_type in _MOVING and moved & set(node.input)
        ):
            names.add(node.name)
            moved |= set(node.output)
    return names

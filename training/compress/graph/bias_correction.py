"""Bias correction (arXiv 1906.04721, §4.2): rounding the weights of a layer moves the mean of its
answers; its bias takes back the shift that the means of its inputs on calibration images explain.

Depthwise layers gain most: few weights make an answer, so that their errors do not cancel out. The
mean is that of each place of the kernel, with the zeros of padded borders in it: of small maps they
are a large part.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from training.compress.graph.layers import Matrix, form_of, rounded_layers, values_of

Means = Mapping[str, Matrix]


def give_biases(graph: onnx.GraphProto) -> None:
    """Gives convolutions that have no bias one of zeros, so that there is one to correct."""
    shapes = {part.name: part.dims for part in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in shapes:
            zeros = np.zeros(shapes[node.input[1]][0], np.float32)
            node.input.append(f"{node.output[0]}_bias")
            graph.initializer.append(numpy_helper.from_array(zeros, node.input[2]))


def linear_biases(graph: onnx.GraphProto) -> set[str]:
    """Names of the additions of a bias to the product with a matrix of weights: linear layers on
    more than two dimensions."""
    ranks = {part.name: len(part.dims) for part in graph.initializer}
    products = {
        node.output[0]
        for node in graph.node
        if node.op_type == "MatMul" and ranks.get(node.input[1]) == 2
    }
    return {
        node.name
        for node in graph.node
        if node.op_type == "Add"
        and products & set(node.input)
        and any(ranks.get(name) == 1 for name in node.input)
    }


def correct_biases(rounded: onnx.GraphProto, original: onnx.GraphProto, means: Means) -> None:
    """Corrects the biases of the layers of `rounded` whose weights are rounded, in place. Those
    that share a bias get one each. Nodes are left out of order.

    means: by tensor of `original` that a layer reads, over images, in the shape of one or
        of its channels, float64.
    """
    weights = {part.name: part for part in original.initializer}
    parts = {part.name: part for part in rounded.initializer}
    makers = {output: node for node in rounded.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in rounded.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for layer in list(rounded_layers(rounded, original)):
        if layer.read not in means:
            continue
        whole = numpy_helper.to_array(weights[layer.weight]).astype(np.float64)
        shift = _shift(layer.node, whole - values_of(layer.pair, parts), means[layer.read])
        place = _bias(layer.node, readers, parts, makers)
        if shift is not None and place is not None:
            _add(rounded, *place, shift, parts, makers)


def _shift(node: onnx.NodeProto, error: Matrix, mean: Matrix) -> Matrix | None:
    """The mean of the answers that the error of the weights takes away, [outputs]; None for
    products that are not those of a plain layer."""
    form = form_of(node, error.shape)
    if form is None:
        return None
    return np.asarray(np.einsum("gok,gk->go", form.matrices(error), form.mean_patch(mean)).ravel())


def _bias(
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    parts: Mapping[str, onnx.TensorProto],
    makers: Mapping[str, onnx.NodeProto],
) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds the bias of a layer, and the bias's place among its inputs."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.input) > 2 else None
    behind = readers.get(node.output[0], [])
    if len(behind) != 1 or behind[0].op_type != "Add":
        return None
    other = 1 - list(behind[0].input).index(node.output[0])
    return (behind[0], other) if behind[0].input[other] in parts else None


def _add(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    place: int,
    shift: Matrix,
    parts: dict[str, onnx.TensorProto],
    makers: Mapping[str, onnx.NodeProto],
) -> None:
    """Adds `shift` to the input of `node` at `place`: floats, or integers that a pair reads."""
    name = node.input[place]
    if name in parts:
        bias = numpy_helper.to_array(parts[name])
        if bias.shape == shift.shape:
            node.input[place] = f"{node.name}_corrected"
            moved = (bias + shift).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(moved, node.input[place]))
    elif (pair := makers.get(name)) is not None and pair.input[0] in parts:
        levels, scale = (numpy_helper.to_array(parts[part]) for part in pair.input[:2])
        if levels.shape == shift.shape and levels.dtype == np.int32:
            moved = np.rint(levels + shift / scale.astype(np.float64))
            bounds = np.iinfo(np.int32)
            moved = moved.clip(bounds.min, bounds.max).astype(np.int32)
            own = onnx.NodeProto()
            own.CopyFrom(pair)
            own.name, own.output[0] = f"{node.name}_bias", f"{node.name}_bias_read"
            own.input[0], node.input[place] = f"{node.name}_corrected", own.output[0]
            graph.initializer.append(numpy_helper.from_array(moved, own.input[0]))
            graph.node.append(own)

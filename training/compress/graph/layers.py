"""The layers of an ONNX graph whose weights are rounded: convolutions and products with a matrix of
weights, as matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Matrix = NDArray[np.float64]

KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Form:
    """Weights as matrices that are multiplied with patches of the input.

    node: the layer.
    shape: of its weights.
    groups: of its channels; 1 for products.
    turned: whether the weights of a product are [inputs, outputs].
    """

    node: onnx.NodeProto
    shape: tuple[int, ...]
    groups: int
    turned: bool

    @property
    def inputs(self) -> int:
        """Channels of the input."""
        return self.shape[0] if self.turned else self.shape[1] * self.groups

    @property
    def columns(self) -> int:
        """Values of a patch, of one group."""
        return self.shape[0] if self.turned else int(np.prod(self.shape[1:]))

    @property
    def places(self) -> int:
        """Values of a patch, of one channel."""
        return self.columns * self.groups // self.inputs

    @property
    def flat(self) -> bool:
        """Whether patches can be cut: of products, and of convolutions over images."""
        if self.node.op_type != "Conv":
            return True
        padding = attributes(self.node).get("auto_pad", b"NOTSET")
        return len(self.shape) == 4 and padding == b"NOTSET"

    def matrices(self, weight: NDArray[np.generic]) -> Matrix:
        """Weights as [groups, outputs, columns]."""
        given = weight.astype(np.float64)
        return (given.T if self.turned else given).reshape(self.groups, -1, self.columns)

    def weights(self, matrices: NDArray[np.generic]) -> NDArray[np.generic]:
        """Matrices in the layer's own shape."""
        if self.turned:
            return np.ascontiguousarray(matrices[0].T)
        return matrices.reshape(self.shape)

    def patches(
        self, values: NDArray[np.floating], count: int, random: np.random.Generator
    ) -> NDArray[np.floating]:
        """Patches of an input at `count` random places of each image, [places, groups, columns];
        all of them where there are fewer."""
        if self.node.op_type != "Conv":
            rows = values.reshape(-1, self.columns)
            chosen = _some(len(rows), count * len(values), random)
            return rows[chosen][:, None, :]
        given = attributes(self.node)
        top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
        down, across = given.get("strides", [1, 1])
        tall, wide = given.get("dilations", [1, 1])
        kernel = self.shape[2:]
        padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        reach = (tall * (kernel[0] - 1) + 1, wide * (kernel[1] - 1) + 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
        windows = windows[:, :, ::down, ::across, ::tall, ::wide]
        rows, columns = windows.shape[2:4]
        places = _some(rows * columns, count, random)
        taken = windows[:, :, places // columns, places % columns]
        # [images, channels, places, height, width]
        taken = np.moveaxis(taken, 2, 1).reshape(-1, self.groups, self.columns)
        return np.ascontiguousarray(taken)

    def mean_patch(self, mean: Matrix) -> Matrix:
        """The mean of all patches, [groups, columns], from the mean of the inputs, in the shape of
        one, or of their channels: then as if there were no borders."""
        if self.node.op_type != "Conv":
            return np.asarray(mean.reshape(-1, self.columns).mean(axis=0)[None])
        if mean.ndim == 1 or not self.flat:
            channels = mean.reshape(len(mean), -1).mean(axis=1)
            return np.repeat(channels, self.places).reshape(self.groups, -1)
        every = self.patches(mean[None], mean.size, np.random.default_rng(0))
        return np.asarray(every.mean(axis=0, dtype=np.float64))


def _some(total: int, count: int, random: np.random.Generator) -> NDArray[np.intp]:
    if total <= count:
        return np.arange(total)
    return np.sort(random.choice(total, count, replace=False))


def form_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> Form | None:
    """The form of a layer with weights of that shape; None for nodes that are no plain layer."""
    given = attributes(node)
    if node.op_type == "Conv":
        return Form(node, shape, given.get("group", 1), turned=False)
    if node.op_type not in ("Gemm", "MatMul") or len(shape) != 2:
        return None
    if (given.get("alpha", 1.0), given.get("beta", 1.0), given.get("transA", 0)) != (1, 1, 0):
        return None
    return Form(node, shape, 1, turned=not given.get("transB", 0))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}


@dataclass(frozen=True)
class Rounded:
    """A layer of a quantised graph.

    node: the layer.
    read: the tensor that it reads in the original graph.
    weight: the name of its weights there.
    pair: the node that reads the integers, with their step and their zero.
    """

    node: onnx.NodeProto
    read: str
    weight: str
    pair: onnx.NodeProto


def rounded_layers(rounded: onnx.GraphProto, original: onnx.GraphProto) -> Iterator[Rounded]:
    """The layers of a graph whose weights are rounded, in its order."""
    known = {part.name for part in original.initializer}
    inputs = {node.name: node.input for node in original.node}
    parts = {part.name for part in rounded.initializer}
    makers = {output: node for node in rounded.node for output in node.output}
    for node in [node for node in rounded.node if node.op_type in KINDS]:
        pair = makers.get(node.input[1])
        if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] not in parts:
            continue
        read, weight = inputs[node.name][:2]
        if weight in known:
            yield Rounded(node, read, weight, pair)


def values_of(pair: onnx.NodeProto, parts: Mapping[str, onnx.TensorProto]) -> Matrix:
    """The values of a rounded initialiser."""
    values, scale, *zero = (numpy_helper.to_array(parts[name]) for name in pair.input)
    level = values.astype(np.float64)
    if zero:
        level -= along(pair, zero[0].astype(np.float64), values.ndim)
    return np.asarray(level * along(pair, scale.astype(np.float64), values.ndim))


def along(pair: onnx.NodeProto, values: Matrix, rank: int) -> Matrix:
    """Scales or zero points of a pair, shaped to be multiplied with its levels."""
    shape = [1] * rank
    if values.ndim:
        axis = next((a.i for a in pair.attribute if a.name == "axis"), 1)
        shape[axis] = -1
    return values.reshape(shape)

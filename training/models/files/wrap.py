"""The deployed form of a file: its graph between steps that take `image` and give the outputs of a
task, as models.export.deployed describes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT, Task
from serving.base.tensor import Array, TensorSpec
from training.models.export.deployed import input_specs, output_specs
from training.models.files.answers import LEAST_PROBABILITY
from training.models.files.description import Description
from training.models.files.source import nodes_of, opset_of

# Begins the names of the file's own tensors and nodes, so that none is called as ours.
PREFIX = "network."
_TENSOR_TYPES = {
    "FP32": TensorProto.FLOAT, "FP16": TensorProto.FLOAT16, "FP64": TensorProto.DOUBLE,
    "UINT8": TensorProto.UINT8,
}  # fmt: skip


class _Steps:
    """Nodes in a row: each call appends one that reads the tensor of the one before."""

    def __init__(self, start: str, part: str, opset: int) -> None:
        self.last = start
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._part = part
        self._opset = opset

    def constant(self, values: Sequence[float] | Sequence[int], dtype: type) -> str:
        name = f"{self._part}.constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def then(self, operator: str, *others: str, **attributes: Any) -> str:
        """Appends an operator, with the names of its further inputs; gives its output's name."""
        return self.on(operator, self.last, *others, **attributes)

    def on(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """As `then`, of the named inputs alone."""
        name = f"{self._part}.{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name], name, **attributes)
        self.nodes.append(node)
        self.last = name
        return name

    def cast(self, kind: int) -> str:
        return self.then("Cast", to=kind)

    def reduced(self, operator: str, axis: int, *, keepdims: int) -> str:
        """A reduction along one axis, which is an attribute before opset 18."""
        if self._opset < 18:
            return self.then(operator, axes=[axis], keepdims=keepdims)
        return self.then(operator, self.constant([axis], np.int64), keepdims=keepdims)

    def end(self, name: str) -> None:
        """Calls the last tensor `name`."""
        self.nodes[-1].output[0] = name
        self.last = name


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    """Calls a tensor `new`. An Identity would do too, but OpenVINO leaves those out, and with them
    their names."""
    for node in nodes:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner.node, old, new)


def deployed_graph(
    model: onnx.ModelProto,
    description: Description,
    task: Task,
    channels: int,
    size: tuple[int, int],
    answer: Array,
) -> onnx.ModelProto:
    """A graph of source.prepared, which takes any batch, in its deployed form. `answer` is the
    file's answer to some images."""
    wrapped = compose.add_prefix(model, PREFIX)
    graph, opset = wrapped.graph, opset_of(wrapped)
    inputs = input_specs(size, description.image.depth)
    outputs = output_specs(task, channels, size)
    before = _Steps(IMAGE_INPUT, "image_steps", opset)
    _take(before, description)
    behind = _Steps(PREFIX + description.answer.output, "answer_steps", opset)
    _answer(behind, description, task, channels, outputs, size, answer)
    nodes = [*before.nodes, *graph.node, *behind.nodes]
    _rename(nodes, PREFIX + description.image.name, before.last)
    if not behind.nodes:
        _rename(nodes, behind.last, outputs[0].name)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(_needed(nodes, {spec.name for spec in outputs}))
    graph.initializer.extend([*before.constants, *behind.constants])
    used = {name for node in nodes_of(graph) for name in node.input}
    constants = [part for part in graph.initializer if part.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    graph.input.extend(_values(inputs))
    graph.output.extend(_values(outputs))
    onnx.checker.check_model(wrapped)
    return wrapped


def _take(steps: _Steps, description: Description) -> None:
    """From `image` to the file's input."""
    if description.datatype == "UINT8" and description.image.as_they_are:
        _arrange(steps, description)
        return
    steps.cast(TensorProto.FLOAT)
    norm = description.normalization
    scale = [1 / (255 * value) for value in norm.std]
    shift = [-mean / std for mean, std in zip(norm.mean, norm.std, strict=True)]
    if any(abs(value - 1) > 1e-12 for value in scale):
        steps.then("Mul", steps.constant(scale, np.float32))
    if any(shift):
        steps.then("Add", steps.constant(shift, np.float32))
    _arrange(steps, description)
    if description.datatype != "FP32":
        steps.cast(_TENSOR_TYPES[description.datatype])


def _arrange(steps: _Steps, description: Description) -> None:
    if description.image.channels == "BGR":
        steps.then("Gather", steps.constant([2, 1, 0], np.int64), axis=3)
    if description.image.layout == "NCHW":
        steps.then("Transpose", perm=[0, 3, 1, 2])


def _answer(
    steps: _Steps,
    description: Description,
    task: Task,
    channels: int,
    outputs: tuple[TensorSpec, ...],
    size: tuple[int, int],
    answer: Array,
) -> None:
    """From the file's answer to the task's outputs; nothing where it is that already."""
    shape = answer.shape
    if answer.dtype != np.float32:
        steps.cast(TensorProto.FLOAT)
    if task == "segmentation" and description.answer.holds == "classes":
        _masked(steps, description, outputs, size, shape)
        return
    if task != "segmentation" and answer.ndim != 2:
        steps.then("Flatten", axis=1)
    elif task == "segmentation" and description.answer.layout == "NHWC":
        steps.then("Transpose", perm=[0, 3, 1, 2])
    if description.answer.holds == "probabilities":
        _logarithms(steps, single=channels == 1)
    if task == "segmentation":
        spatial = shape[1:3] if description.answer.layout == "NHWC" else shape[2:4]
        _resize(steps, spatial, size, mode="linear", coordinate_transformation_mode="half_pixel")
        _segmented(steps, outputs)
    elif task == "embedding":
        values = steps.last
        steps.reduced("ReduceL2", 1, keepdims=1)
        length = steps.then("Max", steps.constant([1e-12], np.float32))
        steps.on("Div", values, length)
        steps.end(outputs[0].name)
    elif steps.nodes:
        steps.end(outputs[0].name)


def _logarithms(steps: _Steps, *, single: bool) -> None:
    """Probabilities to logits, as answers.finished has them."""
    least = steps.constant([LEAST_PROBABILITY], np.float32)
    likely = steps.last
    logarithm = steps.on("Log", steps.on("Max", likely, least))
    if single:
        rest = steps.on("Sub", steps.constant([1.0], np.float32), likely)
        steps.on("Sub", logarithm, steps.on("Log", steps.on("Max", rest, least)))


def _resize(steps: _Steps, real: tuple[int, ...], size: tuple[int, int], **how: str) -> None:
    """[N, C, h, w] to [N, C, *size]."""
    if tuple(real) == size:
        return
    values = steps.last
    shape = steps.on("Shape", values)
    kept = steps.on("Gather", shape, steps.constant([0, 1], np.int64))
    sizes = steps.on("Concat", kept, steps.constant(size, np.int64), axis=0)
    steps.on("Resize", values, "", "", sizes, **how)


def _segmented(steps: _Steps, outputs: tuple[TensorSpec, ...]) -> None:
    values = steps.last
    if outputs[0].name == PROBABILITY_OUTPUT:
        steps.then("Sigmoid")
        steps.then("Squeeze", steps.constant([1], np.int64))
        _levels(steps, outputs[0].name)
        return
    steps.then("Softmax", axis=1)
    steps.reduced("ReduceMax", 1, keepdims=0)
    _levels(steps, outputs[1].name)
    steps.on("ArgMax", values, axis=1, keepdims=0)
    _bytes(steps, outputs[0].name)


def _masked(
    steps: _Steps,
    description: Description,
    outputs: tuple[TensorSpec, ...],
    size: tuple[int, int],
    shape: tuple[int, ...],
) -> None:
    """The outputs of a file that answers with classes: it is sure of all."""
    if len(shape) == 4:
        axis = 3 if description.answer.layout == "NHWC" else 1
        steps.then("Squeeze", steps.constant([axis], np.int64))
        shape = shape[:axis] + shape[axis + 1 :]
    if shape[1:] != size:
        steps.then("Unsqueeze", steps.constant([1], np.int64))
        _resize(
            steps, shape[1:], size, mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )  # fmt: skip
        steps.then("Squeeze", steps.constant([1], np.int64))
    mask = steps.last
    if outputs[0].name == PROBABILITY_OUTPUT:
        steps.then("Min", steps.constant([1.0], np.float32))
        _levels(steps, outputs[0].name)
        return
    steps.on("Mul", mask, steps.constant([0.0], np.float32))
    steps.then("Add", steps.constant([1.0], np.float32))
    _levels(steps, outputs[1].name)
    steps.last = mask
    _bytes(steps, outputs[0].name)


def _levels(steps: _Steps, name: str) -> None:
    """Probabilities to the nearest of 256 levels, uint8."""
    steps.then("Mul", steps.constant([255.0], np.float32))
    steps.then("Add", steps.constant([0.5], np.float32))
    steps.then("Floor")
    steps.cast(TensorProto.UINT8)
    steps.end(name)


def _bytes(steps: _Steps, name: str) -> None:
    # Through float, as TensorRT gives bytes of floats alone.
    steps.cast(TensorProto.FLOAT)
    steps.cast(TensorProto.UINT8)
    steps.end(name)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes on which outputs depend, in their order, which is that of the graph."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    wanted |= {name for part in nodes_of(inner) for name in part.input}
    return kept[::-1]


def _values(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    kinds = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}
    return [
        helper.make_tensor_value_info(spec.name, kinds[spec.datatype], ["batch", *spec.shape[1:]])
        for spec in specs
    ]

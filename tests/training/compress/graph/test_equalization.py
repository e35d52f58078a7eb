"""Equalisation: answers in FP32 stay, ranges of channels come near to each other, INT8 gains."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.base.tensor import Array
from training.compress.calibration import choose_calibration
from training.compress.graph.equalization import equalize
from training.compress.quantize import Quantizer
from training.data.samples import ArraySamples
from training.models.export.variants import Scheme

SIZE = (32, 32)
CHANNELS = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (16, *SIZE, 3), np.uint8)
CALIBRATION = choose_calibration(ArraySamples(IMAGES, np.zeros(16, np.int64)), 16, 0)
# Of the channels' ranges, and of the weights that read them: small ones count as much as others.
FACTORS = np.logspace(-1, 0, CHANNELS)

Nodes = list[onnx.NodeProto]


class Graph:
    """A network of one pointwise convolution whose channels differ, an activation, and what reads
    them; its nodes are those that torch exports."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._parts: list[onnx.TensorProto] = []
        self.nodes: Nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", self.part("unit", 1 / 255)], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        ]
        weight = self._random.normal(size=(CHANNELS, 3, 1, 1)) * FACTORS.reshape(-1, 1, 1, 1)
        self.conv("planes", "made", weight, 0.3 * FACTORS)

    def part(self, name: str, values: object) -> str:
        self._parts.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def weights(self, inputs: int, *kernel: int) -> NDArray[np.float64]:
        """Of a layer that reads the channels, larger where these are small."""
        weight = self._random.normal(size=(CHANNELS, inputs, *kernel))
        read = np.resize(FACTORS, inputs) if inputs > 1 else FACTORS.reshape(-1, 1)
        return np.asarray(weight / read.reshape(-1 if inputs == 1 else 1, inputs, 1, 1))

    def conv(
        self,
        read: str,
        made: str,
        weight: NDArray[np.float64],
        bias: object = None,
        **given: object,
    ) -> None:
        names = [self.part(f"{made}.weight", weight)]
        names += [self.part(f"{made}.bias", np.zeros(len(weight)) if bias is None else bias)]
        self.node("Conv", [read, *names], made, **given)

    def node(self, kind: str, read: Sequence[str], made: str, **given: object) -> None:
        self.nodes.append(helper.make_node(kind, list(read), [made], **given))

    def activation(self, kind: str) -> None:
        """From "made" to "active"."""
        if kind == "relu6":
            bounds = [self.part("zero", 0.0), self.part("six", 6.0)]
            self.node("Clip", ["made", *bounds], "active")
        elif kind == "silu":
            self.node("Sigmoid", ["made"], "gate")
            self.node("Mul", ["made", "gate"], "active")
        else:
            self.node({"relu": "Relu", "hardswish": "HardSwish"}[kind], ["made"], "active")

    def reader(self, kind: str) -> None:
        """From "active" to "read"."""
        if kind == "depthwise":
            weight = self.weights(1, 3, 3)
            self.conv("active", "read", weight, group=CHANNELS, pads=[1, 1, 1, 1])
        elif kind == "dense":
            self.conv("active", "read", self.weights(CHANNELS, 3, 3), pads=[1, 1, 1, 1])
        elif kind == "grouped":
            self.conv("active", "read", self.weights(4, 1, 1), group=4)
        elif kind == "behind a pool":
            self.node("MaxPool", ["active"], "pooled", kernel_shape=[2, 2], strides=[2, 2])
            self.conv("pooled", "read", self.weights(CHANNELS, 1, 1))
        elif kind == "two layers":
            self.conv("active", "left", self.weights(CHANNELS, 1, 1))
            self.conv("active", "right", self.weights(CHANNELS, 1, 1))
            self.node("Add", ["left", "right"], "read")
        elif kind == "sum":
            self.conv("active", "left", self.weights(CHANNELS, 1, 1))
            self.node("Add", ["left", "active"], "read")
        elif kind == "shared weights":
            self.conv("active", "left", self.weights(CHANNELS, 1, 1))
            self.node("Conv", ["left", "left.weight", "left.bias"], "read")
        elif kind == "layer norm":
            # Channels last, as tokens are.
            self.node("Transpose", ["active"], "last", perm=[0, 2, 3, 1])
            norm = [self.part("norm.weight", FACTORS), self.part("norm.bias", FACTORS)]
            self.node("LayerNormalization", ["last", *norm], "normal", axis=-1)
            linear = self.part("linear.weight", self.weights(CHANNELS, 1, 1)[:, :, 0, 0].T)
            self.node("MatMul", ["normal", linear], "linear")
            self.node("Transpose", ["linear"], "read", perm=[0, 3, 1, 2])

    def model(self) -> onnx.ModelProto:
        self.node("GlobalAveragePool", ["read"], "mean")
        self.node("Flatten", ["mean"], "flat")
        head = [self.part("head", self._random.normal(size=(4, CHANNELS)))]
        self.node("Gemm", ["flat", *head, self.part("head.bias", np.zeros(4))], "logits", transB=1)
        for number, node in enumerate(self.nodes):
            node.name = f"node_{number}"
        shape = ["batch", *SIZE, 3]
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
            self._parts,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def made(activation: str, reader: str) -> onnx.ModelProto:
    graph = Graph()
    graph.activation(activation)
    graph.reader(reader)
    return graph.model()


def answers(model: onnx.ModelProto, name: str = "logits") -> Array:
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    if name != "logits":
        seen.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        seen.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([name], {"image": IMAGES})[0])


def ranges(model: onnx.ModelProto, name: str) -> Array:
    """The largest magnitude of each channel of a tensor."""
    axis = (0, 1, 2) if name == "normal" else (0, 2, 3)
    return np.asarray(np.abs(answers(model, name)).max(axis=axis))


def equalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    changed = equalize(other, CALIBRATION)
    return other, changed


def assert_same_answers(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    expected = answers(model)
    assert np.abs(answers(other) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("reader", ["depthwise", "dense", "grouped", "behind a pool", "two layers"])
def test_channels_become_alike_and_answers_stay(reader: str) -> None:
    model = made("relu", reader)
    other, [name] = equalized(model)
    assert_same_answers(model, other)
    before, after = ranges(model, name), ranges(other, name)
    assert after.max() / after.min() < 0.5 * before.max() / before.min()


def test_a_layer_norm_passes_factors_to_the_products_behind_it() -> None:
    model = made("silu", "layer norm")
    other, changed = equalized(model)
    assert changed == ("normal",)
    assert_same_answers(model, other)


@pytest.mark.parametrize(
    ("activation", "reader"),
    [
        ("silu", "depthwise"),
        ("relu6", "depthwise"),
        ("hardswish", "depthwise"),
        ("relu", "sum"),
        ("silu", "shared weights"),
    ],
)
def test_tensors_that_no_factor_can_reach_stay_as_they_are(activation: str, reader: str) -> None:
    model = made(activation, reader)
    other, changed = equalized(model)
    assert changed == ()
    assert other.SerializeToString() == model.SerializeToString()


def test_tensors_that_gain_nothing_stay_as_they_are() -> None:
    once, changed = equalized(made("relu", "depthwise"))
    assert changed
    assert equalized(once)[1] == ()


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize(
    ("activation", "reader"), [("relu", "depthwise"), ("relu", "grouped"), ("silu", "layer norm")]
)
def test_int8_answers_come_nearer_to_fp32(
    activation: str, reader: str, scheme: Scheme, tmp_path: Path
) -> None:
    model = made(activation, reader)
    onnx.save(model, tmp_path / "float.onnx")
    expected, errors = answers(model, "read"), []
    for equal in (False, True):
        quantizer = Quantizer(tmp_path / "float.onnx", "minmax", CALIBRATION, equalized=equal)
        quantizer.write(tmp_path / "int8.onnx", scheme)
        errors.append(np.abs(answers(onnx.load(tmp_path / "int8.onnx"), "read") - expected).mean())
    assert errors[1] < 0.7 * errors[0]

"""Biases of INT8 files: they make up for the rounding of weights, and are not rounded to 8 bits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from serving.base.tensor import Array
from training.compress.calibration import choose_calibration
from training.compress.graph.bias_correction import correct_biases
from training.compress.quantize import Quantizer
from training.data.samples import ArraySamples
from training.models.export.deployed import Deployed, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.models.export.variants import Scheme
from training.recipes.data import Normalization

SIZE = (12, 12)
# Bright, so that channels have means for weights to be multiplied with.
IMAGES = np.random.default_rng(0).integers(120, 256, (16, *SIZE, 3), np.uint8)
SAMPLES = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))


class Tokens(nn.Module):
    """A linear layer on [N, T, C], which exports as a product and an addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        tokens = torch.relu(self.layer(values.flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).unflatten(2, values.shape[2:])


def layer(kind: str) -> nn.Module:
    made = {
        "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
        "with wide borders": lambda: nn.Conv2d(8, 8, 3, padding=4, dilation=4, groups=8),
        "grouped": lambda: nn.Conv2d(8, 8, 3, groups=2),
        "without bias": lambda: nn.Conv2d(8, 8, 3, bias=False),
        "linear": lambda: Tokens(8),
    }[kind]()
    weight = made.layer.weight if isinstance(made, Tokens) else made.weight
    with torch.no_grad():
        # One weight sets the grid; all others lie the same third of a step beside it.
        weight.fill_(10.3 / 127)
        weight.flatten(1)[:, 0] = 1.0
    return made


def exported(kind: str, path: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        layer(kind),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for module in network:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.constant_(module.bias, 0.5)
    file = path / "float.onnx"
    deployed = Deployed(network.eval(), "classification", Normalization())
    export_onnx(deployed, input_specs(SIZE), output_specs("classification", 4, SIZE), 20, file)
    return file


def pooled(file: Path) -> Array:
    """The mean over images of what the layer in question answers, [channels]."""
    model = onnx.load(file)
    pool = next(n for n in model.graph.node if n.op_type in ("GlobalAveragePool", "ReduceMean"))
    name = pool.output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    seen = file.with_suffix(".seen.onnx")
    onnx.save(model, seen)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(seen, options)
    return np.asarray(session.run([name], {"image": IMAGES})[0]).reshape(len(IMAGES), 8).mean(0)


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize(
    "kind", ["depthwise", "with wide borders", "grouped", "without bias", "linear"]
)
def test_the_mean_of_a_layers_answers_is_that_of_fp32(
    kind: str, scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(kind, tmp_path)
    quantizer = Quantizer(file, "minmax", choose_calibration(SAMPLES, 16, 0))
    quantizer.write(tmp_path / "corrected.onnx", scheme)
    monkeypatch.setattr("training.compress.quantize.correct_biases", lambda *_: None)
    quantizer.write(tmp_path / "plain.onnx", scheme)
    expected = pooled(file)
    corrected = np.abs(pooled(tmp_path / "corrected.onnx") - expected).mean()
    plain = np.abs(pooled(tmp_path / "plain.onnx") - expected).mean()
    assert corrected < 0.4 * plain


def test_the_bias_of_a_linear_layer_is_not_rounded_to_8_bits(tmp_path: Path) -> None:
    file = exported("linear", tmp_path)
    quantizer = Quantizer(file, "minmax", choose_calibration(SAMPLES, 16, 0))
    for scheme in ("s8", "u8"):
        quantizer.write(tmp_path / "int8.onnx", scheme)
        graph = onnx.load(tmp_path / "int8.onnx").graph
        floats = {p.name for p in graph.initializer if p.data_type == onnx.TensorProto.FLOAT}
        makers = {output: node for node in graph.node for output in node.output}
        added = [
            node
            for node in graph.node
            if node.op_type == "Add" and floats & set(node.input) and node.input[0] in makers
        ]
        assert any(
            maker is not None and maker.op_type == "MatMul"
            for node in added
            for maker in map(makers.get, node.input)
        )


def test_layers_that_share_a_bias_get_one_each() -> None:
    weights = {"w1": np.full((2, 2), 0.3, np.float32), "w2": np.full((2, 2), 0.6, np.float32)}
    bias = numpy_helper.from_array(np.zeros(2, np.float32), "b")
    gemm = [helper.make_node("Gemm", ["x", w, "b"], [f"y_{w}"], name=w) for w in weights]
    original = helper.make_graph(
        gemm,
        "original",
        [],
        [],
        [*(numpy_helper.from_array(v, k) for k, v in weights.items()), bias],
    )
    parts, nodes = [bias], []
    for name in weights:
        levels = numpy_helper.from_array(np.zeros((2, 2), np.int8), f"{name}_q")
        parts += [levels, numpy_helper.from_array(np.float32(1), f"{name}_s")]
        pair = helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [f"{name}_d"])
        nodes += [pair, helper.make_node("Gemm", ["x", f"{name}_d", "b"], [f"y_{name}"], name=name)]
    rounded = helper.make_graph(nodes, "rounded", [], [], parts)
    correct_biases(rounded, original, {"x": np.array([1.0, 2.0])})
    found = {part.name: numpy_helper.to_array(part) for part in rounded.initializer}
    read = {node.name: found[node.input[2]] for node in rounded.node if node.op_type == "Gemm"}
    np.testing.assert_allclose(read["w1"], [0.9, 0.9], rtol=1e-6)
    np.testing.assert_allclose(read["w2"], [1.8, 1.8], rtol=1e-6)

"""Adaptive rounding: a layer's answers err less than with the nearest levels, and the levels stay
within their bits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from training.compress.calibration import choose_calibration
from training.compress.graph.layers import form_of
from training.compress.graph.rounding import squared_error, with_feedback
from training.compress.quantize import Quantizer
from training.data.samples import ArraySamples
from training.models.export.deployed import Deployed, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.models.export.variants import Scheme
from training.recipes.data import Normalization

SIZE = (12, 12)
RANDOM = np.random.default_rng(0)
# Smooth, as photographs are: neighbours are alike, so that errors can cancel out.
IMAGES = (
    np.cumsum(np.cumsum(RANDOM.normal(size=(64, *SIZE, 3)), axis=1), axis=2) * 12 + 128
).clip(0, 255).astype(np.uint8)  # fmt: skip
CALIBRATION = choose_calibration(ArraySamples(IMAGES, np.zeros(64, np.int64)), 64, 0)


def correlated(columns: int) -> np.ndarray:
    values = np.cumsum(RANDOM.normal(size=(500, columns)), axis=1)
    return np.cov(values, rowvar=False)[None]


@pytest.mark.parametrize("columns", [9, 150])
def test_errors_of_a_layer_cancel_out(columns: int) -> None:
    covariance = correlated(columns)
    exact = RANDOM.uniform(-127, 127, (1, 8, columns))
    chosen = with_feedback(exact, covariance, 127)
    assert np.array_equal(chosen, np.rint(chosen))
    assert np.abs(chosen).max() <= 127
    nearest = np.rint(exact)
    ours, plain = (squared_error(exact - levels, covariance) for levels in (chosen, nearest))
    assert ours.sum() < 0.3 * plain.sum()


def test_inputs_that_never_vary_leave_the_nearest_levels() -> None:
    exact = RANDOM.uniform(-127, 127, (2, 3, 9))
    assert np.array_equal(with_feedback(exact, np.zeros((2, 9, 9)), 127), np.rint(exact))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, padding=1, stride=2),
        nn.Conv2d(6, 6, 3, groups=6, padding=2, dilation=2),
        nn.Conv2d(6, 4, (1, 3), groups=2, padding=(0, 1)),
    ],
)
def test_patches_times_matrices_are_the_layers_answers(layer: nn.Conv2d, tmp_path: Path) -> None:
    values = torch.randn(2, 6, 10, 8)
    weight = layer.weight.detach().numpy()
    node = onnx.helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        pads=[*layer.padding, *layer.padding],
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        group=layer.groups,
    )
    form = form_of(node, weight.shape)
    assert form is not None
    assert np.array_equal(form.weights(form.matrices(weight)), weight)
    patches = form.patches(values.numpy(), 10_000, RANDOM)
    with torch.no_grad():
        whole = nn.functional.conv2d(
            values, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
    got = np.einsum("pgk,gok->pgo", patches, form.matrices(weight)).reshape(len(patches), -1)
    expected = whole.numpy().transpose(0, 2, 3, 1).reshape(len(patches), -1)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert len(form.patches(values.numpy(), 3, RANDOM)) == 6


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    path = tmp_path_factory.mktemp("rounding") / "float.onnx"
    deployed = Deployed(network.eval(), "classification", Normalization())
    export_onnx(deployed, input_specs(SIZE), output_specs("classification", 4, SIZE), 20, path)
    return path


def levels(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    parts = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    return {name: part for name, part in parts.items() if part.dtype == np.int8 and part.ndim > 1}


@pytest.mark.parametrize("scheme", ["s8", "u8", "u8-rr"])
def test_written_weights_keep_their_bits_and_steps(
    float_file: Path, scheme: Scheme, tmp_path: Path
) -> None:
    found = {}
    for adaptive in (False, True):
        path = tmp_path / f"{adaptive}.onnx"
        Quantizer(float_file, "minmax", CALIBRATION, adaptive=adaptive).write(path, scheme)
        found[adaptive] = levels(path)
    assert found[True].keys() == found[False].keys()
    most = 64 if scheme == "u8-rr" else 127
    assert any(not np.array_equal(found[True][k], found[False][k]) for k in found[True])
    for name, plain in found[False].items():
        assert np.abs(found[True][name].astype(int)).max() <= most
        # A weight is moved by a few levels at most: what others take away is little.
        assert np.abs(found[True][name].astype(int) - plain).max() <= 4


def test_file_answers_nearer_to_fp32_with_coarse_weights(float_file: Path, tmp_path: Path) -> None:
    def answers(path: Path) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": IMAGES})[0])

    expected = answers(float_file)
    errors = {}
    for adaptive in (False, True):
        path = tmp_path / f"{adaptive}.onnx"
        quantizer = Quantizer(float_file, "minmax", CALIBRATION, adaptive=adaptive)
        quantizer.write(path, "u8-rr")
        errors[adaptive] = float(((answers(path) - expected) ** 2).mean())
    assert errors[True] < errors[False]

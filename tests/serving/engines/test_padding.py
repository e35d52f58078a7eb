"""Layers whose padding engines may take otherwise than ONNX defines: right, or refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.engines import EngineOptions
from tests.serving.engines.test_wrong_in_8_bits import loaded
from tests.support.published import CPU_ENGINES as ALL

TRANSPOSED = [
    "strides=[2, 2]",
    "strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]",
    "strides=[2, 2], pads=[1, 0, 0, 1]",
    'strides=[2, 2], auto_pad="VALID"',
    'strides=[1, 1], auto_pad="SAME_UPPER"',
    'strides=[2, 2], auto_pad="SAME_LOWER"',
    "strides=[2, 2], output_shape=[12, 12]",
    'strides=[2, 2], output_shape=[12, 12], auto_pad="SAME_UPPER"',
]
WINDOWS = [
    "strides=[2, 2]",
    "strides=[2, 2], pads=[1, 1, 1, 1]",
    "strides=[3, 3], pads=[1, 1, 0, 0]",
    "strides=[3, 3], pads=[0, 0, 1, 1], ceil_mode=1",
    "strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1",
    "strides=[3, 3], pads=[1, 1, 0, 0], ceil_mode=1",
    "strides=[1, 1], pads=[1, 1, 1, 1], ceil_mode=1",
    "strides=[2, 2], ceil_mode=1",
    'strides=[2, 2], auto_pad="SAME_UPPER"',
    'strides=[2, 2], auto_pad="SAME_LOWER"',
]
LAYERS = [
    *(f"ConvTranspose<{form}>(x, weights)" for form in TRANSPOSED),
    *(f"ConvTranspose<group=8, {form}>(x, deep)" for form in TRANSPOSED),
    *(f"MaxPool<kernel_shape=[3, 3], {form}>(x)" for form in WINDOWS),
    *(f"AveragePool<kernel_shape=[3, 3], {form}>(x)" for form in WINDOWS),
    *(f"AveragePool<kernel_shape=[3, 3], count_include_pad=1, {form}>(x)" for form in WINDOWS),
    "MaxPool<kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1>(x)",
    'Conv<strides=[2, 2], auto_pad="SAME_UPPER">(x, weights)',
    'Conv<strides=[2, 2], auto_pad="SAME_LOWER">(x, weights)',
]


# Those that OpenVINO computes otherwise, or would in other sizes.
REFUSED = [
    layer
    for layer in LAYERS
    if (layer.startswith("ConvT") and ("SAME" in layer or "output_shape" in layer))
    or ("ceil_mode" in layer and "pads" in layer and "strides=[1" not in layer)
    or layer.startswith("MaxPool<kernel_shape=[2, 2], strides=[3, 3], ceil")
]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_padding_is_as_onnx_defines_it_or_refused(name: str, layer: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> '
        f"padded (float[n, 8, 6, 6] x) => (float[n, 8, h, w] y) {{ y = {layer} }}"
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), weights)
        for weights, shape in (("weights", (8, 8, 3, 3)), ("deep", (8, 1, 3, 3)))
    )
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    values = random.normal(size=(3, 8, 6, 6)).astype(np.float32)
    plainly = onnxruntime.SessionOptions()
    plainly.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    truth = onnxruntime.InferenceSession(file, plainly, providers=["CPUExecutionProvider"])
    [wanted] = truth.run(None, {"x": values})
    engine = loaded(name, file, EngineOptions(max_batch_size=3))
    if isinstance(engine, str):
        assert name == "openvino"
        assert "pads otherwise than ONNX defines" in engine
        assert layer in REFUSED
        return
    answer = engine.infer({"x": values})["y"].copy()
    engine.close()
    np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-4)

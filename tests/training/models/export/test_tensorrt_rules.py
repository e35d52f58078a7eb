"""Typed graphs: what we export passes TensorRT's rules, what breaks one is named by its node."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from serving.base.evaluation import answer_distance
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from training.compress.calibration import choose_calibration
from training.compress.fp16 import to_half
from training.compress.quantize import Quantizer, quantize
from training.data.samples import ArraySamples
from training.models import build_model
from training.models.export.deployed import Deployed, Task, input_specs, output_specs
from training.models.export.tensorrt_rules import tensorrt_problems
from training.models.export.to_onnx import check_interface, export_onnx
from training.recipes.data import Normalization

SIZE = (32, 32)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)
NETWORKS: dict[Task, str] = {
    "classification": "resnet20_cifar",
    "segmentation": "unet_vgg16_bn",
    "embedding": "resnet20_cifar",
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, Path]:
    task: Task = request.param
    torch.manual_seed(0)
    network = build_model(NETWORKS[task], 4).eval()
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            # As training leaves them: those of zeros are not exported.
            torch.nn.init.uniform_(value, -0.1, 0.1)
    deployed = Deployed(network, task, Normalization())
    path = tmp_path_factory.mktemp(task) / "model.onnx"
    export_onnx(deployed, input_specs(SIZE), output_specs(task, 4, SIZE), 20, path)
    return task, path


def answers(path: Path, precision: str) -> dict[str, Array]:
    engine = load_engine("onnxruntime", path, EngineOptions(precision=precision, threads=2))
    try:
        return engine.infer({"image": IMAGES})
    finally:
        engine.close()


def test_fp16_file_keeps_its_edges_computes_in_half_and_passes(
    exported: tuple[Task, Path], tmp_path: Path
) -> None:
    task, fp32 = exported
    half = tmp_path / "model.fp16.onnx"
    to_half(fp32, half)
    check_interface(half, input_specs(SIZE), output_specs(task, 4, SIZE))
    assert tensorrt_problems(fp32) == tensorrt_problems(half) == []
    graph = onnx.load(half).graph
    weights = {part.name: part.data_type for part in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert {weights[node.input[1]] for node in layers} == {TensorProto.FLOAT16}
    assert half.stat().st_size < 0.55 * fp32.stat().st_size
    expected, got = answers(fp32, "fp32"), answers(half, "fp16")
    for name, tolerance in (("logits", 5e-3), ("mask", 5e-3)):
        if name in expected:
            assert answer_distance(expected[name], got[name]) < tolerance


def test_symmetric_int8_passes_and_asymmetric_is_refused_by_node(
    exported: tuple[Task, Path], tmp_path: Path
) -> None:
    _, fp32 = exported
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    calibration = choose_calibration(samples, 8, 0)
    quantize(fp32, tmp_path / "s8.onnx", "s8", "minmax", calibration)
    assert tensorrt_problems(tmp_path / "s8.onnx") == []
    quantize(fp32, tmp_path / "u8.onnx", "u8", "minmax", calibration)
    problems = " ".join(tensorrt_problems(tmp_path / "u8.onnx"))
    assert "(QuantizeLinear): quantises to uint8, TensorRT to int8 only" in problems
    assert "its zero point is not 0 (asymmetric quantisation)" in problems
    assert "dequantises int32 (a bias)" in problems


def test_int8_passes_with_any_layer_left_in_floating_point(
    exported: tuple[Task, Path], tmp_path: Path
) -> None:
    _, fp32 = exported
    samples = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))
    quantizer = Quantizer(fp32, "minmax", choose_calibration(samples, 8, 0))
    path = tmp_path / "mixed.onnx"
    # In a residual network each first layer of a block shares its input with the next block.
    for layers in (*((layer,) for layer in quantizer.layers[:4]), quantizer.layers[::2]):
        quantizer.write(path, "s8", layers)
        assert tensorrt_problems(path) == []


def test_weight_beyond_half_precision_is_refused(
    exported: tuple[Task, Path], tmp_path: Path
) -> None:
    from training.errors import ExportError

    model = onnx.load(exported[1])
    kernel = next(part for part in model.graph.initializer if len(part.dims) == 4)
    kernel.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(kernel) + np.float32(1e5), kernel.name)
    )
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(ExportError, match="holds values beyond 65504"):
        to_half(tmp_path / "large.onnx", tmp_path / "half.onnx")


def saved(path: Path, nodes: list[Any], weights: dict[str, Any], output: int) -> Path:
    """A graph from x, uint8 [n, 4], to y."""
    body = helper.make_graph(
        nodes,
        "broken",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 4])],
        [helper.make_tensor_value_info("y", output, ["n", 4])],
        [numpy_helper.from_array(np.array(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], f"the_{kind.lower()}", **attributes)


CAST = node("Cast", "x", "f", to=TensorProto.FLOAT)
SCALE, ZERO = np.float32(0.1), np.int8(0)
EYE = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("nodes", "weights", "output", "problem"),
    [
        (
            [CAST, node("Add", "f h", "y")],
            {"h": np.ones(4, np.float16)},
            TensorProto.FLOAT,
            "the_add (Add): its inputs are of different types (FLOAT, FLOAT16)",
        ),
        (
            [node("Add", "x b", "y")],
            {"b": np.ones(4, np.uint8)},
            TensorProto.UINT8,
            "the_add (Add): takes uint8; only a Cast to float of an input may",
        ),
        (
            [CAST, node("ArgMax", "f", "i", axis=1), node("Cast", "i", "y", to=TensorProto.UINT8)],
            {},
            TensorProto.UINT8,
            "the_cast (Cast): gives uint8; only a Cast from float to an output may",
        ),
        (
            [CAST, node("QuantizeLinear", "f s z", "q"), node("Cast", "q", "y", to=1)],
            {"s": SCALE, "z": ZERO},
            TensorProto.FLOAT,
            "the_quantizelinear (QuantizeLinear): no DequantizeLinear behind it",
        ),
        (
            [
                CAST,
                node("QuantizeLinear", "f s z", "q"),
                node("DequantizeLinear", "q s z", "d"),
                node("MatMul", "d w", "y"),
            ],
            {"s": SCALE, "z": ZERO, "w": EYE},
            TensorProto.FLOAT,
            "the_matmul (MatMul): its weights have no pair of Q and DQ, its other input has",
        ),
        (
            [
                CAST,
                node("QuantizeLinear", "f s z", "q"),
                node("DequantizeLinear", "q s z", "d"),
                node("Relu", "d", "y"),
            ],
            {"s": np.float32(0), "z": ZERO},
            TensorProto.FLOAT,
            "the_quantizelinear (QuantizeLinear): its scale is not positive throughout",
        ),
        (
            [
                CAST,
                node("QuantizeLinear", "f s z", "q", axis=1),
                node("DequantizeLinear", "q s z", "d", axis=1),
                node("Relu", "d", "y"),
            ],
            {"s": np.full(4, SCALE), "z": np.zeros(4, np.int8)},
            TensorProto.FLOAT,
            "the_quantizelinear (QuantizeLinear): quantises activations by channel; TensorRT "
            "does by tensor only",
        ),
        (
            [
                CAST,
                node("DequantizeLinear", "w s z", "d", axis=0),
                node("MatMul", "f d", "y"),
            ],
            {"w": EYE.astype(np.int8), "s": np.full(4, SCALE), "z": np.zeros(4, np.int8)},
            TensorProto.FLOAT,
            "the_dequantizelinear (DequantizeLinear): its scales lie along axis 0 of the weights "
            "of the_matmul (MatMul), whose output channels are axis 1",
        ),
        (
            [
                CAST,
                node("Cast", "f", "h", to=TensorProto.FLOAT16),
                node("QuantizeLinear", "h s z", "q"),
                node("DequantizeLinear", "q s z", "y"),
            ],
            {"s": SCALE, "z": ZERO},
            TensorProto.FLOAT,
            "the_quantizelinear (QuantizeLinear): its scale is FLOAT, what it quantises FLOAT16",
        ),
        (
            [CAST, node("Cast", "f", "g", to=TensorProto.DOUBLE), node("Cast", "g", "y", to=1)],
            {},
            TensorProto.FLOAT,
            "the_cast (Cast): g is DOUBLE",
        ),
    ],
)
def test_each_broken_rule_names_its_node(
    nodes: list[Any], weights: dict[str, Any], output: int, problem: str, tmp_path: Path
) -> None:
    assert problem in tensorrt_problems(saved(tmp_path / "model.onnx", nodes, weights, output))

"""INT8 files: what is quantised, what is not, and that both engines agree with FP32."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from serving.base.evaluation import answer_distance
from serving.engines import EngineOptions, load_engine
from tests.support.published import CPU_ENGINES
from training.compress.calibration import Method, choose_calibration
from training.compress.quantize import Quantizer, quantize
from training.data.samples import ArraySamples
from training.models import build_model
from training.models.export.deployed import Deployed, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import check_interface, export_onnx
from training.models.export.variants import Scheme
from training.pipeline.library_logs import quiet_libraries
from training.recipes.data import Normalization

SIZE = (16, 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, *SIZE, 3), np.uint8)
SAMPLES = ArraySamples(IMAGES, np.zeros(len(IMAGES), np.int64))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Deployed]:
    torch.manual_seed(0)
    deployed = Deployed(build_model("resnet20_cifar", 4).eval(), "classification", Normalization())
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(deployed, input_specs(SIZE), output_specs("classification", 4, SIZE), 20, path)
    return path, deployed


def test_calibration_set_is_named_by_its_pixels() -> None:
    first, again = choose_calibration(SAMPLES, 10, 1), choose_calibration(SAMPLES, 10, 1)
    assert len(first) == 10
    assert first.sha256 == again.sha256
    assert first.sha256 != choose_calibration(SAMPLES, 10, 2).sha256
    assert len(choose_calibration(SAMPLES, 1000, 1)) == len(IMAGES)


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize("calibrate", ["minmax", "percentile"])
def test_quantised_file_answers_nearly_as_fp32_in_both_engines(
    classifier: tuple[Path, Deployed], tmp_path: Path, scheme: Scheme, calibrate: Method
) -> None:
    float_file, deployed = classifier
    path = tmp_path / "int8.onnx"
    quantize(float_file, path, scheme, calibrate, choose_calibration(SAMPLES, 24, 0))
    check_interface(path, input_specs(SIZE), output_specs("classification", 4, SIZE))
    expected = run_deployed(deployed, ("logits",), IMAGES)["logits"]
    for name in CPU_ENGINES:
        engine = load_engine(name, path, EngineOptions(precision="int8", max_batch_size=32))
        answers = engine.infer({"image": IMAGES})["logits"]
        engine.close()
        assert answer_distance(expected, answers) < 0.1, name
    assert path.stat().st_size < 0.5 * float_file.stat().st_size


@pytest.mark.parametrize("scheme", ["s8", "u8"])
def test_layers_are_quantised_and_the_edges_are_not(
    classifier: tuple[Path, Deployed], tmp_path: Path, scheme: Scheme
) -> None:
    path = tmp_path / "int8.onnx"
    quantize(classifier[0], path, scheme, "minmax", choose_calibration(SAMPLES, 8, 0))
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    for layer in layers:
        assert [makers[name].op_type for name in layer.input[:2]] == ["DequantizeLinear"] * 2
    assert makers["logits"].op_type == "Gemm"
    relus = [node for node in graph.node if node.op_type == "Relu"]
    assert all(makers[relu.input[0]].op_type != "DequantizeLinear" for relu in relus)
    normalisation = next(node for node in graph.node if node.op_type == "Cast")
    assert not any(
        node.op_type == "QuantizeLinear" and normalisation.output[0] in node.input
        for node in graph.node
    )
    wanted = onnx.TensorProto.INT8 if scheme == "s8" else onnx.TensorProto.UINT8
    zeros = {part.name: part for part in graph.initializer}
    activations = [zeros[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {part.data_type for part in activations} == {wanted}
    if scheme == "s8":
        assert all(not onnx.numpy_helper.to_array(part).any() for part in activations)


def test_quantiser_says_nothing_of_its_own_in_a_build(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = build_model("timm/test_convnext", 4).eval()  # whose norms have no channels to part
    path = tmp_path / "model.onnx"
    deployed = Deployed(network, "classification", Normalization())
    side = (32, 32)
    export_onnx(deployed, input_specs(side), output_specs("classification", 4, side), 20, path)
    images = ArraySamples(np.zeros((2, *side, 3), np.uint8), np.zeros(2, np.int64))
    caplog.set_level(logging.INFO)
    with quiet_libraries():
        quantize(path, tmp_path / "int8.onnx", "s8", "minmax", choose_calibration(images, 2, 0))
    assert [record.message for record in caplog.records if record.name == "root"] == []


def test_nothing_is_left_in_the_working_directory(
    classifier: tuple[Path, Deployed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    quantize(classifier[0], tmp_path / "q.onnx", "u8", "minmax", choose_calibration(SAMPLES, 4, 0))
    assert list(Path().iterdir()) == []


def rounded_layers(path: Path) -> set[str]:
    """The layers whose weights are INT8."""
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    return {
        makers[node.input[1]].input[0].removeprefix("network.").partition(".weight")[0]
        for node in graph.node
        if node.op_type in ("Conv", "Gemm") and node.input[1] in makers
    }


def test_layers_are_quantised_alone_or_left_alone(
    classifier: tuple[Path, Deployed], tmp_path: Path
) -> None:
    quantizer = Quantizer(classifier[0], "minmax", choose_calibration(SAMPLES, 4, 0))
    every = set(quantizer.layers)
    assert every == {
        name
        for name, module in classifier[1].network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    path = tmp_path / "q.onnx"
    quantizer.write(path, "s8")
    assert rounded_layers(path) == every
    quantizer.write(path, "s8", ["layer1.0.conv2", "linear"])
    assert rounded_layers(path) == every - {"layer1.0.conv2", "linear"}
    # What only a layer in FP32 reads is not rounded either.
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    layer = next(n for n in graph.node if n.input[1:2] == ["network.layer1.0.conv2.weight"])
    assert makers[layer.input[0]].op_type == "Relu"
    quantizer.write_alone(path, "s8", "layer2.0.conv1")
    assert rounded_layers(path) == {"layer2.0.conv1"}


@pytest.mark.parametrize("scheme", ["s8", "u8"])
def test_any_layer_may_stay_in_fp32(
    classifier: tuple[Path, Deployed], tmp_path: Path, scheme: Scheme
) -> None:
    float_file, deployed = classifier
    quantizer = Quantizer(float_file, "minmax", choose_calibration(SAMPLES, 24, 0))
    expected = run_deployed(deployed, ("logits",), IMAGES)["logits"]
    path = tmp_path / "q.onnx"
    for layers in [*([layer] for layer in quantizer.layers), quantizer.layers[::2]]:
        quantizer.write(path, scheme, layers)
        engine = load_engine("onnxruntime", path, EngineOptions(max_batch_size=32))
        answers = engine.infer({"image": IMAGES})["logits"]
        engine.close()
        assert answer_distance(expected, answers) < 0.1, layers


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.ReLU6])
def test_an_activation_behind_the_last_layer_stays(
    tmp_path: Path, scheme: Scheme, activation: type[torch.nn.Module]
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), activation(), torch.nn.Conv2d(8, 4, 3), activation(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )  # fmt: skip
    assert worst_distance(network, tmp_path, scheme) < 0.1


def test_reduced_range_keeps_weights_to_seven_bits(
    classifier: tuple[Path, Deployed], tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    quantize(classifier[0], path, "u8-rr", "minmax", choose_calibration(SAMPLES, 4, 0))
    weights = [
        onnx.numpy_helper.to_array(part)
        for part in onnx.load(path).graph.initializer
        if part.data_type == onnx.TensorProto.INT8 and len(part.dims) > 1
    ]
    assert len(weights) == 20
    assert max(int(np.abs(part.astype(int)).max()) for part in weights) == 64


def exported(network: torch.nn.Module, folder: Path) -> tuple[Path, Deployed]:
    deployed = Deployed(network.eval(), "classification", Normalization())
    path = folder / "model.onnx"
    export_onnx(deployed, input_specs(SIZE), output_specs("classification", 4, SIZE), 20, path)
    return path, deployed


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize("alone", [(), ("2",)])
def test_values_are_not_rounded_before_relu6(
    tmp_path: Path, scheme: Scheme, alone: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU6(), torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.ReLU6(), torch.nn.Conv2d(8, 4, 12), torch.nn.Flatten(),
    )  # fmt: skip
    file, _ = exported(network, tmp_path)
    path = tmp_path / "q.onnx"
    Quantizer(file, "minmax", choose_calibration(SAMPLES, 8, 0)).write(path, scheme, alone)
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    clips = [node for node in graph.node if node.op_type == "Clip"]
    assert clips or scheme == "u8"
    assert all(makers[clip.input[0]].op_type == "Conv" for clip in clips)


def worst_distance(network: torch.nn.Module, folder: Path, scheme: Scheme) -> float:
    """Of a network's INT8 answers from its own, in both engines, all of them finite."""
    file, deployed = exported(network, folder)
    path = folder / "q.onnx"
    quantize(file, path, scheme, "minmax", choose_calibration(SAMPLES, 24, 0))
    expected = run_deployed(deployed, ("logits",), IMAGES)["logits"]
    distances = []
    for name in CPU_ENGINES:
        engine = load_engine(name, path, EngineOptions(precision="int8", max_batch_size=32))
        answers = engine.infer({"image": IMAGES})["logits"].copy()
        engine.close()
        assert np.isfinite(answers).all(), name
        distances.append(answer_distance(expected, answers))
    return max(distances)


class Resized(torch.nn.Module):
    """Maps that are made smaller between two layers, as CrossViT and positions of ViTs are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.head = torch.nn.Linear(8 * 11 * 11, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.nn.functional.interpolate(self.conv(x), (11, 11), mode="bicubic")
        return self.head(maps.flatten(1))


@pytest.mark.parametrize("scheme", ["s8", "u8"])
def test_cubic_resizes_are_not_rounded_and_run_in_both_engines(
    tmp_path: Path, scheme: Scheme
) -> None:
    torch.manual_seed(0)
    assert worst_distance(Resized(), tmp_path, scheme) < 0.1


class Normalized(torch.nn.Module):
    """Directions of points whose lengths lie far apart, as swin_v2 has them in its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = self.conv(x).flatten(2).transpose(1, 2) ** 5
        return self.head(torch.nn.functional.normalize(points, dim=2).mean(1))


@pytest.mark.parametrize("scheme", ["s8", "u8"])
def test_divisors_are_not_rounded_to_zero(tmp_path: Path, scheme: Scheme) -> None:
    torch.manual_seed(0)
    assert worst_distance(Normalized(), tmp_path, scheme) < 0.3


class Tokens(torch.nn.Module):
    """Patches behind a class token, as vision transformers have them: its copies, one an image,
    need the batch size. Positions are added after the token or before it."""

    def __init__(self, *, positions_first: bool) -> None:
        super().__init__()
        self.positions_first = positions_first
        self.conv = torch.nn.Conv2d(3, 8, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.positions = torch.nn.Parameter(torch.randn(1, 16 + (not positions_first), 8) / 10)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 4)
        torch.nn.init.normal_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv(x).flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], -1, -1)
        if self.positions_first:
            tokens = torch.cat((token, patches + self.positions), 1)
        else:
            tokens = torch.cat((token, patches), 1) + self.positions
        return self.head(self.norm(tokens).mean(1))


@pytest.mark.parametrize("scheme", ["s8", "u8"])
@pytest.mark.parametrize("positions_first", [False, True])
def test_biases_of_patches_beside_a_class_token_are_right_in_both_engines(
    tmp_path: Path, scheme: Scheme, positions_first: bool
) -> None:
    torch.manual_seed(0)
    assert worst_distance(Tokens(positions_first=positions_first), tmp_path, scheme) < 0.1


class Block(torch.nn.Module):
    """Tokens through the two halves of a transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 4, 4)
        self.positions = torch.nn.Parameter(torch.randn(1, 16, 8) / 10)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(8) for _ in range(3))
        self.mixing = torch.nn.Linear(8, 8)
        self.widening = torch.nn.Linear(8, 16)
        self.narrowing = torch.nn.Linear(16, 8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = self.conv(x).flatten(2).transpose(1, 2) + self.positions
        read = self.norms[0](stream)
        stream = stream + self.mixing((read @ read.transpose(1, 2)).softmax(-1) @ read)
        wide = torch.nn.functional.gelu(self.widening(self.norms[1](stream)))
        stream = stream + self.narrowing(wide)
        return self.head(self.norms[2](stream.mean(1)))


@pytest.mark.parametrize("scheme", ["s8", "u8"])
def test_streams_between_blocks_and_inputs_of_softmax_are_not_rounded(
    tmp_path: Path, scheme: Scheme
) -> None:
    torch.manual_seed(0)
    assert worst_distance(Block(), tmp_path, scheme) < 0.02
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    makers = {output: node for node in nodes for output in node.output}
    for node in nodes:
        if node.op_type in ("Softmax", "LayerNormalization"):
            read = makers[node.input[0]]
            if read.op_type == "ReduceMean":
                read = makers[read.input[0]]
            terms = [makers[name].op_type for name in read.input if name in makers]
            assert "DequantizeLinear" not in (read.op_type, *terms * (read.op_type == "Add"))
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["MatMul"] + kinds["Gemm"] == 6

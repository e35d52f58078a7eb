"""An exported file is checked by names, then shapes, then values, each with an error of its own."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from serving.base.tensor import TensorSpec
from training.errors import NamesMismatch, ShapesMismatch, ValuesMismatch
from training.models import build_model
from training.models.export.deployed import Deployed, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import check_answers, check_interface, export_onnx
from training.recipes.data import Normalization

Task = Literal["classification", "segmentation"]
SIZE = (16, 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module", params=["classification", "segmentation"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, Path, Deployed]:
    """A random network of each task, in a file and in torch."""
    task: Task = request.param
    torch.manual_seed(0)
    if task == "classification":
        network = build_model("resnet20_cifar", 4)
    else:
        network = build_model("unet_slim", 4, width=0.125)
    deployed = Deployed(network.eval(), task, Normalization())
    path = tmp_path_factory.mktemp(task) / "model.onnx"
    export_onnx(deployed, input_specs(SIZE), output_specs(task, 4, SIZE), 20, path)
    return task, path, deployed


def test_file_answers_as_torch_at_any_batch(exported: tuple[Task, Path, Deployed]) -> None:
    task, path, deployed = exported
    outputs = output_specs(task, 4, SIZE)
    check_interface(path, input_specs(SIZE), outputs)
    check_answers(path, deployed, outputs, IMAGES)


def test_graph_is_fit_for_engines(exported: tuple[Task, Path, Deployed]) -> None:
    task, path, _ = exported
    model = onnx.load(path)
    types = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in types
    makers = {output: node for node in model.graph.node for output in node.output}
    first = next(node for node in model.graph.node if "image" in node.input)
    assert first.op_type == "Cast"
    if task == "segmentation":
        # TensorRT: ArgMax -> Cast float -> Cast uint8.
        floats = makers[makers["mask"].input[0]]
        assert (makers["mask"].op_type, floats.op_type) == ("Cast", "Cast")
        assert floats.attribute[0].i == onnx.TensorProto.FLOAT
    assert not any(node.metadata_props for node in model.graph.node)


def test_grey_graph_has_the_operators_of_rgb(tmp_path: Path) -> None:
    """A single channel leaves strides open, from which the exporter would make operators."""
    types = []
    for channels, normalization in (
        (3, Normalization()),
        (1, Normalization(mean=(0.449,), std=(0.226,))),
    ):
        torch.manual_seed(0)
        network = build_model("lenet5", 4, channels=channels).eval()
        deployed = Deployed(network, "classification", normalization)
        inputs, outputs = input_specs((32, 32), channels), output_specs("classification", 4, (1, 1))
        path = tmp_path / f"{channels}.onnx"
        export_onnx(deployed, inputs, outputs, 20, path)
        check_interface(path, inputs, outputs)
        images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, channels), np.uint8)
        check_answers(path, deployed, outputs, images)
        types.append([node.op_type for node in onnx.load(path).graph.node])
    assert types[0] == types[1]


def test_normalisation_is_in_the_graph() -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    normalization = Normalization(mean=(0.5, 0.0, 1.0), std=(0.5, 0.25, 1.0))
    deployed = Deployed(network, "classification", normalization)
    images = np.full((1, 4, 4, 3), 255, np.uint8)
    logits = run_deployed(deployed, ("logits",), images)["logits"]
    assert logits[0].tolist() == pytest.approx([1.0, 4.0, 0.0], abs=1e-5)


def test_confidence_is_255_times_the_winning_probability() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    torch.nn.init.zeros_(network.weight)
    network.bias = torch.nn.Parameter(torch.tensor([0.0, float(np.log(3))]))
    deployed = Deployed(network, "segmentation", Normalization())
    answers = run_deployed(deployed, ("mask", "confidence"), IMAGES)
    assert np.unique(answers["mask"]).tolist() == [1]
    assert np.unique(answers["confidence"]).tolist() == [191]  # 0.75 * 255 = 191.25


def test_wrong_names_shapes_and_values_are_told_apart(
    exported: tuple[Task, Path, Deployed], tmp_path: Path
) -> None:
    task, path, deployed = exported
    inputs, outputs = input_specs(SIZE), output_specs(task, 4, SIZE)
    with pytest.raises(NamesMismatch, match=r"expected \['picture'\], got \['image'\]"):
        check_interface(path, (TensorSpec("picture", "UINT8", (-1, *SIZE, 3)),), outputs)
    with pytest.raises(ShapesMismatch, match=r"expected image UINT8\[-1, 8, 8, 3\]"):
        check_interface(path, input_specs((8, 8)), outputs)
    with pytest.raises(ShapesMismatch, match="outputs: expected"):
        check_interface(path, inputs, (TensorSpec(outputs[0].name, "FP64", (-1,)), *outputs[1:]))
    model = onnx.load(path)
    kernel = next(part for part in model.graph.initializer if len(part.dims) == 4)
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ValuesMismatch, match="differs from torch's by"):
        check_answers(tmp_path / "changed.onnx", deployed, outputs, IMAGES)

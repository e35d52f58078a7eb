"""Which variants and networks are published, by what they are judged, and why others are not."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.repository.manifest import read_manifest
from tests.support.foreign import (
    classifier,
    uneven,
    write_foreign,
    write_items,
    write_pictures,
)
from tests.training.pipeline.adopt.conftest import adopt, listing, refused


def test_a_variant_that_fails_its_gate_is_left_out_with_its_reason(
    model: Path, items: Path
) -> None:
    result = adopt(model, items, "--variants", "fp16,int8-s8", "--max-distance", "0.003")
    assert result.exit_code == 0, result.output
    assert "int8-s8 is not served: onnxruntime: 12 answers, of which" in result.stdout
    manifest = read_manifest(model / "1")
    assert manifest is not None
    assert [variant.id for variant in manifest.variants] == ["fp32", "fp16"]
    assert not (model / "1" / "model.int8-s8.onnx").exists()


def test_control_flow_stays_in_fp32_with_the_reason(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node("Mul" if name == "then" else "Add", ["x", "x"], [name])],
            name,
            [],
            [info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1]
        ),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    tensors = ([info("x", TensorProto.FLOAT, [4])], [info("y", TensorProto.FLOAT, [4])])
    body = helper.make_graph(nodes, "flow", *tensors, [zero])
    opset = [helper.make_opsetid("", 17)]
    (tmp_path / "flow" / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(body, opset_imports=opset, ir_version=8),
        tmp_path / "flow" / "1" / "model.onnx",
    )
    (tmp_path / "items").mkdir()
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.save(tmp_path / "items" / "x.npy", rows)
    result = adopt(tmp_path / "flow", tmp_path / "items")
    assert result.exit_code == 0, result.output
    assert "int8-u8 is not served: its control flow (If)" in result.stdout


def random_answers() -> onnx.ModelProto:
    """`pixels` to `scores` plus noise: no two calls get the same answer."""
    model = onnx.ModelProto()
    model.CopyFrom(classifier(17, "n"))
    model.graph.node[-1].output[0] = "right"
    model.graph.node.append(helper.make_node("RandomNormalLike", ["right"], ["noise"], scale=9.0))
    model.graph.node.append(helper.make_node("Add", ["right", "noise"], ["scores"]))
    return model


def test_a_network_whose_answers_differ_from_call_to_call_is_not_published(
    model: Path, items: Path
) -> None:
    onnx.save(random_answers(), model / "1" / "model.onnx")
    before = listing(model)
    assert "nothing is published: fp32: " in refused(adopt(model, items))
    assert listing(model) == before


PIXELS = "input: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}\n"


def labelled(tmp_path: Path) -> tuple[Path, list[str]]:
    (tmp_path / "pixels.yaml").write_text(PIXELS)
    flags = ["--preprocess", str(tmp_path / "pixels.yaml"), "--task", "classification"]
    return write_pictures(tmp_path / "pictures") / "classification", flags


def test_labels_judge_where_the_data_has_some(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    assert adopt(model, pictures, *flags, "--variants", "int8-u8").exit_code == 0
    manifest = read_manifest(model / "1")
    assert manifest is not None
    assert (manifest.measure, manifest.classes[0]) == ("top1", "red")
    found = manifest.variants[0].evidence["onnxruntime"]
    assert (found.accuracy.value, found.accuracy.n) == (1.0, 12)


def test_wrong_pixels_are_found_out_by_the_labels(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    (tmp_path / "pixels.yaml").write_text("input: {range: [0, -1]}\n")
    line = refused(adopt(model, pictures, *flags))
    assert "is not above chance" in line
    assert "--min-accuracy 0 lets it pass" in line


def test_folders_that_are_no_classes_are_named(model: Path, tmp_path: Path) -> None:
    pictures, flags = labelled(tmp_path)
    (pictures / "red").rename(pictures / "reed")
    line = refused(adopt(model, pictures, *flags))
    assert "'reed' (did you mean 'red'?)" in line
    assert "--unlabelled compares with FP32 instead" in line
    result = adopt(model, pictures, *flags, "--unlabelled", "--variants", "fp16")
    assert result.exit_code == 0, result.output
    assert "agreement with FP32" in result.stdout


def test_as_many_folders_as_outputs_are_the_classes_where_nothing_names_them(
    model: Path, tmp_path: Path
) -> None:
    pictures, flags = labelled(tmp_path)
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace('label_filename: "names.txt"', ""))
    line = refused(adopt(model, pictures, *flags))
    assert "the data has 3 classes, output 'scores' 4" in line
    names = ["--classes", str(model / "names.txt")]
    assert adopt(model, pictures, *flags, *names, "--variants", "fp16").exit_code == 0


@pytest.fixture(scope="module")
def uneven_adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("uneven")
    network = uneven()
    return write_foreign(root / "repository", "uneven", network), write_items(
        root / "items", network, 60
    )


def test_refusals_are_told_again_where_nothing_has_changed(
    uneven_adopted: tuple[Path, Path],
) -> None:
    flags = ("--variants", "int8-u8", "--max-distance", "0.2", "--max-float", "0")
    first = adopt(*uneven_adopted, *flags)
    assert first.exit_code == 0, first.output
    line = next(line for line in first.stdout.splitlines() if line.startswith("int8-u8 is not"))
    again = adopt(*uneven_adopted, *flags)
    assert "Nothing has changed" in again.stdout
    assert line in again.stdout
    document = json.loads(adopt(*uneven_adopted, *flags, "--json").stdout)
    assert f"int8-u8 is not served: {document['refused']['int8-u8']}" == line


def test_a_layer_that_8_bits_cannot_hold_stays_in_floating_point(
    uneven_adopted: tuple[Path, Path],
) -> None:
    result = adopt(*uneven_adopted, "--variants", "int8-u8", "--max-distance", "0.2")
    assert result.exit_code == 0, result.output
    assert "int8-u8: 1 of 6 layers in FP32 (w2): on the items of the calibration" in result.stdout
    manifest = read_manifest(uneven_adopted[0] / "1")
    assert manifest is not None
    assert [variant.id for variant in manifest.variants] == ["fp32", "int8-u8"]
    assert manifest.refused == {}

"""Why a model cannot be adopted, in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from tests.support.foreign import NETWORKS, write_foreign
from tests.support.published import publish
from training.errors import ExportError
from training.pipeline.adopt.served import read_served


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_foreign(tmp_path, "opset11")


def refusal(model: Path, version: int | None = None) -> str:
    with pytest.raises(ExportError) as refused:
        read_served(model, version)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_newest_served_version_is_read_unless_one_is_named(model: Path) -> None:
    (model / "3").mkdir()
    (model / "3" / "model.onnx").write_bytes((model / "1" / "model.onnx").read_bytes())
    assert read_served(model, None).version == 3
    found = read_served(model, 1)
    assert (found.version, found.batches) == (1, True)
    assert [str(spec) for spec in found.inputs] == ["pixels FP32[-1, 3, 16, 16]"]
    assert found.parameters == 4 * 3 * 9 + 4 + 16
    assert "no version 2; it has [1, 3]" in refusal(model, 2)


def test_a_config_that_names_no_tensors_is_completed(model: Path) -> None:
    (model / "config.pbtxt").unlink()
    found = read_served(model, None)
    assert [str(spec) for spec in found.outputs] == ["scores FP32[-1, 4]"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('platform: "ensemble"', "platform: expected one of"),
        ('backend: "python"', "backend: expected one of"),
        ("ensemble_scheduling { }", "ensembles are not offered"),
        ("sequence_batching { }", "an answer depends on the calls before it"),
        ('platform: "tensorrt_plan"', "not found|expected an ONNX file"),
        ("max_batch_sise: 3", "no field named"),
        ("version_policy { specific { versions: [7] } }", "selects none of"),
        ('default_model_filename: "other.onnx"', "other.onnx: not found"),
    ],
)
def test_a_config_that_cannot_be_adopted_is_refused(config: str, reason: str, model: Path) -> None:
    (model / "config.pbtxt").write_text(f"max_batch_size: 8\n{config}\n")
    text = refusal(model)
    assert any(part in text for part in reason.split("|")), text


def test_a_fixed_batch_that_the_config_would_exceed_is_refused(tmp_path: Path) -> None:
    model = write_foreign(tmp_path, "fixed_batch")
    config = (model / "config.pbtxt").read_text()
    config = config.replace("size: 0", "size: 2").replace("[2, ", "[")
    (model / "config.pbtxt").write_text(config)
    assert "has a fixed first dimension" in refusal(model)


def test_a_version_of_a_build_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    assert "has its variants already" in refusal(tmp_path / "colours")


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert "no such folder; expected REPOSITORY/MODEL" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "no model" in refusal(tmp_path / "empty")


def strings() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])],
        "strings",
        [info("text", TensorProto.STRING, ["n"])],
        [info("same", TensorProto.STRING, ["n"])],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def any_rank() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "any",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sequence() -> onnx.ModelProto:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
    body = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_value_info("y", kind)],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def halves() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "halves",
        [info("x", TensorProto.FLOAT16, ["n", 2])],
        [info("y", TensorProto.FLOAT16, ["n", 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float16), "w")],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def foreign_operator() -> onnx.ModelProto:
    model = NETWORKS["opset11"].model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node[1].domain = "com.example"
    changed.opset_import.append(helper.make_opsetid("com.example", 1))
    return changed


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (strings, "'text' holds strings"),
        (any_rank, "input 'x' has any number of dimensions; expected a fixed number"),
        (sequence, "output 'y' is no tensor but sequence"),
        (halves, "in FP16 already"),
        (foreign_operator, "operators that are not ONNX's own: com.example.Relu"),
    ],
)
def test_a_network_that_no_variant_can_be_made_of_is_refused(
    make: Callable[[], onnx.ModelProto], reason: str, model: Path
) -> None:
    (model / "config.pbtxt").write_text("max_batch_size: 0\n")
    onnx.save(make(), model / "1" / "model.onnx")
    assert reason in refusal(model)


def test_a_network_that_is_quantised_already_is_refused(model: Path, tmp_path: Path) -> None:
    class Zeros(CalibrationDataReader):
        left = 2

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {"pixels": np.zeros((1, 3, 16, 16), np.float32)} if self.left >= 0 else None

    onnx.save(NETWORKS["fixed_batch"].model, tmp_path / "float.onnx")
    onnx.save(NETWORKS["masks"].model, tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", model / "1" / "model.onnx", Zeros())
    assert "is quantised already" in refusal(model)


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07"])
def test_a_file_that_is_no_network_is_refused(content: bytes, model: Path) -> None:
    (model / "1" / "model.onnx").write_bytes(content)
    assert "model.onnx" in refusal(model)


def test_a_repository_in_the_place_of_a_model_is_told(tmp_path: Path) -> None:
    publish(tmp_path)
    assert refusal(tmp_path) == (
        f"{tmp_path}: no model: neither config.pbtxt nor a numbered version folder; expected "
        "REPOSITORY/MODEL"
    )

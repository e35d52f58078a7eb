"""What an ONNX file says of itself, read without the package that wrote it."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from serving.base.errors import EngineUnavailable
from serving.repository.onnx_file import NotTold, content_digest, external_files, read_facts
from tests.support.identity import ELEMENTS, publish_identity
from tests.support.published import graph


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_inputs_and_outputs_are_read_with_their_free_dimensions(tmp_path: Path) -> None:
    facts = read_facts(saved(tmp_path, graph("segmentation")))
    assert [str(spec) for spec in facts.inputs] == ["image UINT8[-1, 8, 8, 3]"]
    assert [str(spec) for spec in facts.outputs] == [
        "mask UINT8[-1, 8, 8]",
        "confidence UINT8[-1, 8, 8]",
    ]
    assert facts.batches


def test_every_datatype_is_known(tmp_path: Path) -> None:
    publish_identity(tmp_path, "all", list(ELEMENTS))
    facts = read_facts(tmp_path / "all" / "1" / "model.onnx")
    assert [spec.datatype for spec in facts.inputs] == list(ELEMENTS)


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    model = graph("classification")
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, []))
    assert [spec.name for spec in read_facts(saved(tmp_path, model)).inputs] == ["image"]


def test_an_output_without_a_shape_is_not_told(tmp_path: Path) -> None:
    model = graph("classification")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(NotTold):
        read_facts(saved(tmp_path, model))


@pytest.mark.parametrize(
    "content", [b"", b"not a network", b"\x3a\x05abc", bytes(range(256)) * 4, b"\xff" * 100]
)
def test_a_file_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EngineUnavailable, match=r"model\.onnx: is no ONNX file"):
        read_facts(tmp_path / "model.onnx")


def test_a_file_that_breaks_off_anywhere_is_named(tmp_path: Path) -> None:
    whole = graph("classification").SerializeToString()
    for length in range(0, len(whole) - 16, 7):  # what follows the graph may be absent
        (tmp_path / "model.onnx").write_bytes(whole[:length])
        with pytest.raises((EngineUnavailable, NotTold)):
            read_facts(tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="No such file"):
        read_facts(tmp_path / "model.onnx")


def test_digest_follows_the_file_and_the_weights_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(
        graph("classification"), file, save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    assert list(external_files(file)) == ["w.bin"]
    before = content_digest(file)
    content = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(bytes(reversed(content)))
    assert content_digest(file) != before
    (tmp_path / "w.bin").write_bytes(content)
    assert content_digest(file) == before

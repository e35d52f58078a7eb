"""Fields that would make another model of a config are refused by name, never passed over."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.repository.config_checks import check_offered
from serving.repository.model_config import from_proto

BASE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""


def check(text: str, folder: Path = Path("m")) -> None:
    proto = pb.ModelConfig()
    text_format.Parse(text, proto)
    check_offered(from_proto(proto, folder / "config.pbtxt"), folder)


def warmup(field: str = "zero_data: true", dims: str = "2", more: str = "batch_size: 1") -> str:
    return BASE + (
        f'model_warmup {{ name: "w" {more} '
        f'inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ {dims} ] {field} }} }} }}'
    )


@pytest.mark.parametrize("field", ["platform", "backend"])
@pytest.mark.parametrize(
    "value", ["onnxruntime_onnx", "onnxruntime", "openvino", "tensorrt_plan", "tensorrt"]
)
def test_single_networks_are_offered(field: str, value: str) -> None:
    check(BASE + f'{field}: "{value}"')


@pytest.mark.parametrize("field", ["platform", "backend"])
@pytest.mark.parametrize("value", ["ensemble", "python", "pytorch_libtorch", "dali"])
def test_other_kinds_of_model_are_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidModelConfig, match=f"m/config.pbtxt: {field}: .* got '{value}'"):
        check(BASE + f'{field}: "{value}"')


def test_an_ensemble_without_its_platform_is_refused() -> None:
    with pytest.raises(InvalidModelConfig, match="ensemble_scheduling"):
        check(BASE + 'ensemble_scheduling { step { model_name: "a" } }')


@pytest.mark.parametrize("kind", ["input", "output"])
def test_reshape_is_refused_unless_it_changes_nothing(kind: str) -> None:
    check(f'{kind} {{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] reshape {{ shape: [ 2 ] }} }}')
    for shape in ("[ 1, 2 ]", "[ ]"):
        with pytest.raises(InvalidModelConfig, match=rf"{kind}\[0\]\.reshape: not offered"):
            check(
                f'{kind} {{ name: "x" data_type: TYPE_FP32 dims: [ 2 ] '
                f"reshape {{ shape: {shape} }} }}"
            )


def test_an_optional_input_is_refused() -> None:
    with pytest.raises(InvalidModelConfig, match=r"input\[0\]\.optional: not offered.*'x'"):
        check('input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] optional: true }')


@pytest.mark.parametrize("field", ["zero_data: true", "random_data: true"])
def test_a_warm_up_that_fits_is_taken(field: str) -> None:
    check(warmup(field))


def test_a_warm_up_from_a_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(bytes(8))
    check(warmup('input_data_file: "x.bin"'), tmp_path)
    (tmp_path / "warmup" / "x.bin").write_bytes(bytes(7))
    with pytest.raises(InvalidModelConfig, match=r"input_data_file: .*expected 8 bytes, got 7"):
        check(warmup('input_data_file: "x.bin"'), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (warmup(""), r"model_warmup\[0\]\.inputs\['x'\]: expected one of zero_data"),
        (warmup(dims="3"), r"inputs\['x'\]\.dims: expected \[2\], got \[3\]"),
        (warmup(dims="2, 2"), r"inputs\['x'\]\.dims: expected \[2\], got \[2, 2\]"),
        (warmup(more="batch_size: 5"), r"batch_size: expected at most max_batch_size \(4\), got 5"),
        (warmup('input_data_file: "none"'), r"input_data_file: .*No such file"),
        (warmup().replace("TYPE_FP32 dims: [ 2 ] zero", "TYPE_INT8 dims: [ 2 ] zero"),
         r"data_type: expected FP32"),
        (warmup().replace('key: "x"', 'key: "z"'), r"inputs: expected \['x'\], got \['z'\]"),
        (BASE + 'model_warmup { name: "w" }', r"inputs: expected \['x'\], got \[\]"),
    ],
)  # fmt: skip
def test_a_broken_warm_up_is_refused_by_field(text: str, said: str) -> None:
    with pytest.raises(InvalidModelConfig, match=said):
        check(text)

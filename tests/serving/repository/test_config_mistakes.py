"""Mistakes in config.pbtxt are told with the file, the field or line, and the value."""

from pathlib import Path

import pytest

from serving.base.errors import InvalidModelConfig
from serving.repository.model_config import (
    read_model_config,
)
from tests.serving.repository.configs import TYPICAL, parsed, written


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("instance_group { kind: KIND_CPU gpus: 0 }", r"\[0\]\.gpus: a group of KIND_CPU has none"),
        ("instance_group { gpus: -1 }", r"expected 0 or more, got \[-1\]"),
        ("instance_group { kind: KIND_GPU } instance_group { }", "all groups on GPUs or none"),
        (
            "instance_group { gpus: 0 } instance_group { kind: KIND_GPU }",
            "gpus in every group or in none",
        ),
        (
            "max_batch_size: 4 optimization { cuda { graphs: true graph_spec { batch_size: 5 } } }",
            r"expected 1 to max_batch_size \(4\), got 5",
        ),
    ],
)
def test_places_that_cannot_be_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidModelConfig, match=problem):
        parsed(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('name: "other"', r"name: expected 'digits' .* got 'other'"),
        ("max_batch_size: -1", "max_batch_size: expected 0 to 16384, got -1"),
        ("input { data_type: TYPE_FP32 dims: 1 }", r"input\[0\]\.name: missing"),
        ('output { name: "y" dims: 1 }', r"output\[0\]\.data_type: missing, for 'y'"),
        ('input { name: "x" data_type: 99 dims: 1 }', r"input\[0\]\.data_type: unknown number 99"),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [ 3, 0 ] }',
            r"input\[0\]\.dims: .* got \[3, 0\]",
        ),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: -2 }',
            r"input\[0\]\.dims: .* got \[-2\]",
        ),
        (
            "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 9 ] }",
            r"dynamic_batching\.preferred_batch_size: expected 1 to max_batch_size \(8\), got 9",
        ),
        ("dynamic_batching { preferred_batch_size: 0 }", r"preferred_batch_size: .* got 0"),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            r"dynamic_batching\.default_priority_level: expected 1 to priority_levels \(2\), got 3",
        ),
        (
            "dynamic_batching { priority_levels: 2 priority_queue_policy { key: 3 value { } } }",
            r"dynamic_batching\.priority_queue_policy: expected keys of 1 to .* \(2\), got 3",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 0 value { } } }",
            r"priority_queue_policy: .* got 0",
        ),
        (
            "instance_group { count: 1 } instance_group { count: -3 }",
            r"instance_group\[1\]\.count: expected 1 or more, got -3",
        ),
        ("version_policy { specific { } }", r"version_policy\.specific\.versions: empty"),
        ("instance_group { count: 2147483647 }", "instance_group"),
        ("instance_group { count: 600 } instance_group { count: 600 }", "instance_group"),
        (
            f"{TYPICAL} output {{ name: 'logits' data_type: TYPE_FP32 dims: 1 }}",
            r"output\[1\].name: .* twice",
        ),
        (
            f"{TYPICAL} input {{ name: 'image' data_type: TYPE_FP32 dims: 1 }}",
            r"input\[1\].name: .* twice",
        ),
        ("default_model_filename: '../../other/1/model.onnx'", "default_model_filename"),
        ("default_model_filename: '/etc/passwd'", "default_model_filename"),
        ("default_model_filename: 'a\\0b'", "default_model_filename"),
        (f"default_model_filename: '{'a' * 400}'", "default_model_filename"),
        ("default_model_filename: 'sub/model.onnx'", "default_model_filename"),
        (
            "output { name: 'y' data_type: TYPE_FP32 dims: 1 label_filename: '/etc/passwd' }",
            r"output\[0\].label_filename",
        ),
        (
            "model_warmup { inputs { key: 'x' value { input_data_file: '../../../etc/passwd' } } }",
            r"model_warmup\[0\].inputs\['x'\].input_data_file",
        ),
        ("max_batch_size: 2147483647", "max_batch_size: expected 0 to 16384, got 2147483647"),
        (
            "dynamic_batching { priority_levels: 18446744073709551615 }",
            "priority_levels: expected at most 256",
        ),
        (
            "dynamic_batching { default_queue_policy { max_queue_size: 4294967295 } }",
            "max_queue_size: expected at most 1000000",
        ),
        (
            "dynamic_batching { priority_levels: 1 priority_queue_policy { key: 1 "
            "value { max_queue_size: 4294967295 } } }",
            "max_queue_size: expected at most 1000000",
        ),
        ("input { name: 'x' } " * 1025, "input: expected at most 1024 entries, got 1025"),
        (f"input {{ name: 'x' dims: {[1] * 65} }}", r"input\[0\].dims: expected at most 64"),
        (
            f"max_batch_size: 4 dynamic_batching {{ preferred_batch_size: {[1] * 65} }}",
            "preferred_batch_size: expected at most 64",
        ),
        (f"instance_group {{ gpus: {[0] * 1025} }}", "instance_group"),
        (f"version_policy {{ specific {{ versions: {[1] * 1025} }} }}", "at most 1024 entries"),
    ],
)
def test_wrong_value_names_file_field_and_value(text: str, field: str) -> None:
    with pytest.raises(InvalidModelConfig, match=f"^digits/config.pbtxt: .*{field}"):
        parsed(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\n\nmax_batch_sise: 3", '3:1 .*no field named "max_batch_sise"'),
        ("max_batch_size: 99999999999", "1:17 .*Value out of range"),
        ('max_batch_size: "8"', "1:17"),
        ('input { name: "x"', "1:15|1:7"),
        ("input { data_type: TYPE_FP99 }", "TYPE_FP99"),
        (r'name: "\xff"', "utf-8"),
    ],
)
def test_text_that_does_not_parse_names_file_and_line(
    tmp_path: Path, text: str, place: str
) -> None:
    folder = written(tmp_path, text)
    with pytest.raises(InvalidModelConfig, match=place) as refusal:
        read_model_config(folder)
    assert str(refusal.value).startswith(f"{folder / 'config.pbtxt'}: line ")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelConfig, match=r"config\.pbtxt: not found") as refusal:
        read_model_config(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "")
    (folder / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidModelConfig, match=r"config\.pbtxt: cannot be read"):
        read_model_config(folder)


def test_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").mkdir()
    with pytest.raises(InvalidModelConfig, match=r"config\.pbtxt: cannot be read"):
        read_model_config(tmp_path)


def test_a_config_of_megabytes_is_not_parsed(tmp_path: Path) -> None:
    folder = written(tmp_path, "# " + "x" * (1 << 20))
    with pytest.raises(InvalidModelConfig, match="has more than 1,048,576 bytes"):
        read_model_config(folder)

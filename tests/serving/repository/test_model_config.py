"""config.pbtxt: the whole grammar parses, what is not supported is named, mistakes are located."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.base.tensor import TensorSpec
from serving.repository.model_config import (
    DEFAULT_MAX_QUEUE_SIZE,
    ModelConfig,
    Placement,
    QueuePolicy,
    VersionPolicy,
    check_against_engine,
    data_type,
    from_proto,
    read_model_config,
)

MODEL_FILE = Path("digits/1/model.onnx")
IMAGE = TensorSpec("image", "UINT8", (-1, 32, 32, 3))
LOGITS = TensorSpec("logits", "FP32", (-1, 10))

TYPICAL = """
name: "digits"
platform: "onnxruntime_onnx"
max_batch_size: 32
input { name: "image" data_type: TYPE_UINT8 format: FORMAT_NONE dims: [ 32, 32, 3 ] }
output {
  name: "logits"
  data_type: TYPE_FP32
  dims: [ 10 ]
  label_filename: "labels.txt"
}
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 2500
}
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy { latest { num_versions: 3 } }
parameters { key: "task" value { string_value: "classification" } }
"""

# Every field of the grammar, with the scheduling choices apart since only one can be set.
WHOLE_GRAMMAR = """
name: "digits" platform: "onnxruntime_onnx" backend: "onnxruntime" runtime: "r"
version_policy { specific { versions: [ 1, 3 ] } }
max_batch_size: 8
input {
  name: "image" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ 32, -1, 3 ]
  reshape { shape: [ 3 ] } is_shape_tensor: true allow_ragged_batch: true optional: true
  is_non_linear_format_io: true
}
output {
  name: "logits" data_type: TYPE_FP32 dims: 10 reshape { shape: [ 10 ] } label_filename: "l.txt"
  is_shape_tensor: true is_non_linear_format_io: true
}
batch_input {
  kind: BATCH_ITEM_SHAPE target_name: "a" data_type: TYPE_FP32 source_input: "image"
}
batch_output { target_name: "b" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "image" }
optimization {
  graph { level: 1 } priority: PRIORITY_MAX
  cuda {
    graphs: true busy_wait_events: true output_copy_stream: true
    graph_spec {
      batch_size: 1
      input { key: "image" value { dim: [ 1, 2 ] } }
      graph_lower_bound { batch_size: 1 input { key: "image" value { dim: 1 } } }
    }
  }
  execution_accelerators {
    gpu_execution_accelerator { name: "tensorrt" parameters { key: "k" value: "v" } }
    cpu_execution_accelerator { name: "openvino" }
  }
  input_pinned_memory { enable: true } output_pinned_memory { enable: false }
  gather_kernel_buffer_threshold: 1 eager_batching: true
}
instance_group {
  name: "g" kind: KIND_GPU count: 2 gpus: [ 0, 1 ] profile: "p" passive: true host_policy: "h"
  rate_limiter { resources { name: "r" global: true count: 1 } priority: 2 }
  secondary_devices { kind: KIND_NVDLA device_id: 1 }
}
default_model_filename: "net.onnx"
cc_model_filenames { key: "8.0" value: "net80.onnx" }
metric_tags { key: "team" value: "vision" }
parameters { key: "task" value { string_value: "classification" } }
model_warmup {
  name: "w" batch_size: 1 count: 2
  inputs { key: "image" value { data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] zero_data: true } }
  inputs { key: "random" value { random_data: true } }
  inputs { key: "file" value { input_data_file: "f" } }
}
model_operations { op_library_filename: "ops.so" }
model_transaction_policy { decoupled: false }
model_repository_agents { agents { name: "checksum" parameters { key: "k" value: "v" } } }
response_cache { enable: true }
model_metrics {
  metric_control {
    metric_identifier { family: "f" } histogram_options { buckets: [ 1, 2 ] }
  }
}
"""
DYNAMIC = """
dynamic_batching {
  preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true
  priority_levels: 2 default_priority_level: 1
  default_queue_policy {
    timeout_action: DELAY default_timeout_microseconds: 1500000 allow_timeout_override: true
    max_queue_size: 7
  }
  priority_queue_policy { key: 2 value { timeout_action: REJECT max_queue_size: 9 } }
}
"""
SEQUENCE = """
sequence_batching {
  max_sequence_idle_microseconds: 1 iterative_sequence: true
  control_input {
    name: "START"
    control {
      kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ]
      bool_false_true: [ false, true ] data_type: TYPE_FP32
    }
  }
  state {
    input_name: "i" output_name: "o" data_type: TYPE_FP32 dims: 1
    initial_state { data_type: TYPE_FP32 dims: 1 zero_data: true name: "s" }
    initial_state { data_file: "f" }
    use_same_buffer_for_input_output: true use_growable_memory: true
  }
  oldest {
    max_candidate_sequences: 1 preferred_batch_size: 2 max_queue_delay_microseconds: 3
    preserve_ordering: true
  }
}
"""
ENSEMBLE = """
ensemble_scheduling {
  step {
    model_name: "a" model_version: -1 model_namespace: "n"
    input_map { key: "x" value: "y" } output_map { key: "x" value: "y" }
  }
  max_inflight_requests: 1
}
"""


def written(folder: Path, text: str) -> Path:
    model = folder / "digits"
    model.mkdir()
    (model / "config.pbtxt").write_text(text)
    return model


def parsed(text: str) -> ModelConfig:
    proto = pb.ModelConfig()
    text_format.Parse(text, proto)
    return from_proto(proto, Path("digits/config.pbtxt"))


def warned(config: ModelConfig) -> set[str]:
    """The fields that the warnings name."""
    start, end = "digits/config.pbtxt: ", ": not supported, ignored"
    assert all(w.startswith(start) and w.endswith(end) for w in config.warnings)
    return {w.removeprefix(start).removesuffix(end) for w in config.warnings}


def test_typical_file_is_read_whole_and_without_warnings(tmp_path: Path) -> None:
    config = read_model_config(written(tmp_path, TYPICAL))
    assert config.name == "digits"
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 32
    assert config.inputs == (IMAGE,)
    assert config.outputs == (LOGITS,)
    assert config.label_filenames == {"logits": "labels.txt"}
    assert config.batching.preferred_batch_sizes == (8, 16)
    assert config.batching.max_queue_delay == pytest.approx(0.0025)
    assert config.instances == 2
    assert config.version_policy == VersionPolicy(latest=3)
    assert config.model_file == "model.onnx"
    assert config.parameters == {"task": "classification"}
    assert config.warnings == ()


def test_empty_file_takes_the_defaults(tmp_path: Path) -> None:
    config = read_model_config(written(tmp_path, "# nothing\n"))
    assert (config.name, config.platform, config.max_batch_size) == ("digits", "", 0)
    assert (config.inputs, config.outputs, config.instances) == ((), (), 1)
    assert config.version_policy == VersionPolicy(latest=1)
    assert config.batching.max_queue_delay == 0
    assert config.batching.policy(1) == QueuePolicy()
    assert config.model_file == "model.onnx"


def test_whole_grammar_parses_and_every_unsupported_field_is_named() -> None:
    config = parsed(WHOLE_GRAMMAR + DYNAMIC)
    assert warned(config) == {
        "input[0].reshape",
        "input[0].is_shape_tensor",
        "input[0].allow_ragged_batch",
        "input[0].optional",
        "input[0].is_non_linear_format_io",
        "output[0].reshape",
        "output[0].is_shape_tensor",
        "output[0].is_non_linear_format_io",
        "batch_input",
        "batch_output",
        *(
            f"optimization.{name}"
            for name in (
                "graph",
                "priority",
                "execution_accelerators",
                "input_pinned_memory",
                "output_pinned_memory",
                "gather_kernel_buffer_threshold",
                "eager_batching",
                "cuda.busy_wait_events",
                "cuda.output_copy_stream",
                "cuda.graph_spec[0].input",
                "cuda.graph_spec[0].graph_lower_bound",
            )
        ),
        "instance_group[0].profile",
        "instance_group[0].passive",
        "instance_group[0].host_policy",
        "instance_group[0].rate_limiter",
        "instance_group[0].secondary_devices",
        "cc_model_filenames",
        "metric_tags",
        "model_operations",
        "model_transaction_policy",
        "model_repository_agents",
        "response_cache",
        "model_metrics",
        "dynamic_batching.preserve_ordering",
    }
    assert config.inputs == (TensorSpec("image", "UINT8", (-1, 32, -1, 3)),)
    assert config.model_file == "net.onnx"


def test_text_of_the_test_sets_every_field_of_the_grammar() -> None:
    proto = pb.ModelConfig()
    text_format.Parse(WHOLE_GRAMMAR, proto)
    scheduling = {"dynamic_batching", "sequence_batching", "ensemble_scheduling"}
    assert {field.name for field, _ in proto.ListFields()} | scheduling == set(
        pb.ModelConfig.DESCRIPTOR.fields_by_name
    )


@pytest.mark.parametrize(
    ("text", "name"), [(SEQUENCE, "sequence_batching"), (ENSEMBLE, "ensemble_scheduling")]
)
def test_other_schedulers_parse_and_are_named(text: str, name: str) -> None:
    assert warned(parsed(text)) == {name}


def test_warning_says_which_of_several_inputs() -> None:
    first = 'input { name: "a" data_type: TYPE_FP32 dims: 1 }'
    second = 'input { name: "b" data_type: TYPE_FP32 dims: 1 optional: true }'
    assert warned(parsed(first + second)) == {"input[1].optional"}


def test_backend_stands_in_for_the_platform() -> None:
    assert parsed('backend: "onnxruntime"').platform == "onnxruntime"
    assert parsed('backend: "b" platform: "p"').platform == "p"


def test_instance_counts_add_up_and_one_without_a_count_is_one() -> None:
    assert parsed("instance_group { count: 2 } instance_group { } ").instances == 3


@pytest.mark.parametrize(
    ("text", "instances", "placement"),
    [
        ("", 1, Placement()),
        ("instance_group { kind: KIND_CPU }", 1, Placement("cpu")),
        ("instance_group { kind: KIND_GPU count: 2 }", 2, Placement("gpu")),
        ("instance_group { gpus: [0, 2] count: 2 }", 4, Placement("gpu", (0, 0, 2, 2))),
        (
            "max_batch_size: 12 optimization { cuda { graphs: true } }",
            1,
            Placement(graph_batch_sizes=(1, 2, 4, 8, 12)),
        ),
        (
            "max_batch_size: 12 "
            "optimization { cuda { graphs: true graph_spec { batch_size: 3 } } }",
            1,
            Placement(graph_batch_sizes=(3,)),
        ),
    ],
)
def test_place_of_the_instances(text: str, instances: int, placement: Placement) -> None:
    config = parsed(text)
    assert (config.instances, config.placement) == (instances, placement)
    assert not config.warnings


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


def test_shapes_have_a_batch_dimension_only_where_the_model_batches() -> None:
    tensor = 'input { name: "x" data_type: TYPE_STRING dims: [ -1, 4 ] }'
    assert parsed(tensor).inputs == (TensorSpec("x", "BYTES", (-1, 4)),)
    assert parsed("max_batch_size: 1 " + tensor).inputs == (TensorSpec("x", "BYTES", (-1, -1, 4)),)


@pytest.mark.parametrize("number", [n for n in pb.DataType.values() if n != pb.TYPE_INVALID])
def test_every_element_type_has_a_wire_name_and_back(number: int) -> None:
    config = parsed(f'input {{ name: "x" data_type: {pb.DataType.Name(number)} dims: 1 }}')
    assert data_type(config.inputs[0].datatype) == number
    assert config.inputs[0].dtype.itemsize > 0


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [12]),
        ("version_policy { latest { } }", [12]),
        ("version_policy { latest { num_versions: 2 } }", [7, 12]),
        ("version_policy { latest { num_versions: 9 } }", [1, 3, 7, 12]),
        ("version_policy { all { } }", [1, 3, 7, 12]),
        ("version_policy { specific { versions: [ 7, 1, 99 ] } }", [1, 7]),
        ("version_policy { specific { versions: 99 } }", []),
    ],
)
def test_version_policy_selects_by_number(policy: str, served: list[int]) -> None:
    # By number, not as text, where 12 would come before 3.
    assert parsed(policy).version_policy.select([7, 12, 1, 3]) == served


def test_queue_policies_go_by_priority() -> None:
    batching = parsed("max_batch_size: 8 " + DYNAMIC).batching
    assert (batching.priority_levels, batching.default_priority) == (2, 1)
    default = QueuePolicy(
        max_queue_size=7, default_timeout=1.5, allow_timeout_override=True, timeout_delays=True
    )
    assert batching.policy(1) == default
    assert batching.policy(2) == QueuePolicy(
        max_queue_size=9, default_timeout=0, allow_timeout_override=False, timeout_delays=False
    )


def test_queue_without_a_size_has_the_default_bound() -> None:
    batching = parsed("dynamic_batching { default_queue_policy { } }").batching
    assert batching.policy(1).max_queue_size == DEFAULT_MAX_QUEUE_SIZE


@pytest.mark.parametrize(("levels", "middle"), [(0, 1), (1, 1), (2, 1), (3, 2), (5, 3)])
def test_default_priority_is_the_middle_level(levels: int, middle: int) -> None:
    batching = parsed(f"dynamic_batching {{ priority_levels: {levels} }}").batching
    assert batching.default_priority == middle


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


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((IMAGE,), (LOGITS,)),
        # The file may fix the batch, leave sizes open, and give more than was promised.
        ((TensorSpec("image", "UINT8", (8, 32, 32, 3)),), (LOGITS,)),
        ((TensorSpec("image", "UINT8", (-1, -1, -1, 3)),), (LOGITS,)),
        ((IMAGE,), (TensorSpec("features", "FP32", (-1, 64)), LOGITS)),
    ],
    ids=["equal", "fixed batch", "open size", "more outputs"],
)
def test_file_that_keeps_the_promise_is_accepted(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    config = parsed(TYPICAL)
    check_against_engine(config, inputs, outputs, MODEL_FILE)
    assert config.inputs == (IMAGE,)


def test_config_without_tensors_accepts_any_file() -> None:
    config = parsed("max_batch_size: 4")
    check_against_engine(config, (IMAGE,), (LOGITS,), MODEL_FILE)
    assert config.inputs == ()


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (
            (TensorSpec("pixels", "UINT8", IMAGE.shape),),
            (LOGITS,),
            r"promises input 'image', the file has \['pixels'\]",
        ),
        (
            (IMAGE,),
            (TensorSpec("scores", "FP32", LOGITS.shape),),
            r"promises output 'logits', the file has \['scores'\]",
        ),
        (
            (TensorSpec("image", "FP32", IMAGE.shape),),
            (LOGITS,),
            r"promises input image UINT8\[-1, 32, 32, 3\], the file has image FP32",
        ),
        (
            (TensorSpec("image", "UINT8", (-1, 3, 32, 32)),),
            (LOGITS,),
            r"the file has image UINT8\[-1, 3, 32, 32\]",
        ),
        (
            (IMAGE,),
            (TensorSpec("logits", "FP32", (-1, 10, 1)),),
            r"promises output logits FP32\[-1, 10\], the file has logits FP32\[-1, 10, 1\]",
        ),
        (
            (IMAGE, TensorSpec("mean", "FP32", (3,))),
            (LOGITS,),
            r"the file needs inputs \['mean'\] that config\.pbtxt leaves out",
        ),
    ],
)
def test_file_that_breaks_the_promise_is_refused_by_name(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], said: str
) -> None:
    with pytest.raises(InvalidModelConfig, match=said) as refusal:
        check_against_engine(parsed(TYPICAL), inputs, outputs, MODEL_FILE)
    assert str(refusal.value).startswith("digits/1/model.onnx: ")


def test_a_config_of_megabytes_is_not_parsed(tmp_path: Path) -> None:
    folder = written(tmp_path, "# " + "x" * (1 << 20))
    with pytest.raises(InvalidModelConfig, match="has more than 1,048,576 bytes"):
        read_model_config(folder)

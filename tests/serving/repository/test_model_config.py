"""config.pbtxt: the whole grammar parses, and what is not supported is named."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from protos.gen import model_config_pb2 as pb
from serving.base.tensor import TensorSpec
from serving.repository.model_config import (
    DEFAULT_MAX_QUEUE_SIZE,
    ModelConfig,
    Placement,
    QueuePolicy,
    VersionPolicy,
    data_type,
    read_model_config,
)
from tests.serving.repository.configs import IMAGE, LOGITS, TYPICAL, parsed, written

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

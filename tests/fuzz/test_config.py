"""Whatever stands in config.pbtxt is a consistent config, or refused in one line."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings

from serving.base.errors import InvalidModelConfig
from serving.repository.model_config import CONFIG_FILE, read_model_config
from tests.fuzz.changed import changed, check_line
from tests.support.mutation import changed_bytes
from tests.support.published import config

TASKS = ("classification", "segmentation", "embedding")
BATCHING = """
dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 100
  priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 1 value {
  max_queue_size: 3 timeout_action: DELAY } } }
instance_group { count: 2 kind: KIND_CPU } version_policy { specific { versions: [1, 2] } }
parameters { key: "slo_ms" value { string_value: "5" } }
"""
CONFIGS = [
    *(config(task).encode() for task in TASKS),
    config("classification").replace("dynamic_batching { }", BATCHING).encode(),
]


@settings(settings.get_profile("fuzz"))
@given(changed(CONFIGS, changed_bytes))
@example(b"max_batch_size: 2147483647")
@example(b"max_batch_size: " + b"9" * 5000)
@example(b"instance_group { count: 1000000000 }")
@example(b'default_model_filename: "../../../etc/passwd"')
@example(b'default_model_filename: "/etc/passwd"')
@example(b'output { name: "a" label_filename: "/etc/passwd" }')
@example(b"input { dims: [" + b"1, " * 10_000 + b"1] }")
@example(b"input { " * 2_000)
@example(b'parameters { key: "slo_ms" value { string_value: "' + b"9" * 400 + b'" } }')
@example(b"version_policy { latest { num_versions: 4294967295 } }")
@example(b"\xff\xfe\0")
def test_a_config_is_consistent_or_refused(text: bytes) -> None:
    with TemporaryDirectory() as folder:
        model = Path(folder) / "colours"
        model.mkdir()
        (model / CONFIG_FILE).write_bytes(text)
        try:
            found = read_model_config(model)
        except InvalidModelConfig as error:
            check_line(error)
            return
    assert found.max_batch_size >= 0
    assert 1 <= found.instances <= 1024
    file = Path(found.model_file)
    assert not file.is_absolute()
    assert ".." not in file.parts
    assert all(dim >= -1 for spec in (*found.inputs, *found.outputs) for dim in spec.shape)

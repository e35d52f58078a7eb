"""Whatever lies in a repository as config.pbtxt, manifest.json, labels, ONNX file or override is
read, or refused by name."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings

from serving.base.errors import EngineUnavailable, InvalidInput, InvalidManifest, InvalidModelConfig
from serving.repository.manifest import MANIFEST_FILE, Manifest, read_manifest
from serving.repository.model_config import CONFIG_FILE, read_model_config
from serving.repository.onnx_file import NotTold, content_digest, read_facts
from serving.repository.override import stage_override
from tests.fuzz.changed import changed, check_line, check_text
from tests.support.mutation import changed_bytes, changed_json, changed_message
from tests.support.published import config, graph, publish

with TemporaryDirectory() as _folder:
    MANIFEST = json.loads((publish(Path(_folder)) / MANIFEST_FILE).read_text())
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
GRAPHS = [graph(task).SerializeToString() for task in TASKS]


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


@settings(settings.get_profile("fuzz"))
@given(changed([MANIFEST], changed_json))
@example(b"[" * 200_000)
@example(b"9" * 5000)
@example(json.dumps({**MANIFEST, "parameters": 10**5000 // 10**4000}).encode())
@example(json.dumps({**MANIFEST, "transform": {"resize": [100_000, 100_000]}}).encode())
@example(json.dumps({**MANIFEST, "transform": {"resize": [-1, 0]}}).encode())
@example(json.dumps({**MANIFEST, "classes": ["\ud800"]}).encode())
@example(
    json.dumps({**MANIFEST, "variants": [{**MANIFEST["variants"][0], "file": "../x"}]}).encode()
)
def test_a_manifest_is_read_or_refused(text: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MANIFEST_FILE).write_bytes(text)
        try:
            found = read_manifest(folder)
        except InvalidManifest as error:
            check_line(error)
            return
    assert isinstance(found, Manifest)


@settings(settings.get_profile("fuzz"))
@given(changed(GRAPHS, changed_message))
@example(b"\x3a" + b"\xff" * 9 + b"\x7f")
@example(b"\x3a\x04\x62\xff\xff\x7f")
@example(b"\x0b" * 10_000)
def test_an_onnx_file_tells_its_tensors_or_is_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(data)
        try:
            facts = read_facts(file)
        except (EngineUnavailable, NotTold):
            return
        finally:
            assert len(content_digest(file)) == 32
    assert facts.outputs
    assert all(isinstance(spec.name, str) for spec in (*facts.inputs, *facts.outputs))


@settings(settings.get_profile("fuzz"))
@given(changed([{"config": "{}", "file:1/model.onnx": "AA"}], changed_json))
@example(json.dumps({"config": "{}", "file:1/../../x": "AA"}).encode())
@example(json.dumps({"config": "{}", "file:1/" + "a" * 300: "AA"}).encode())
@example(json.dumps({"config": "[" * 10_000}).encode())
@example(json.dumps({"config": '{"max_batch_size": 1e400}'}).encode())
def test_an_override_stays_in_its_folder_or_is_refused(text: bytes) -> None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    parameters: dict[str, str | bytes] = {
        name: value.encode(errors="replace") if name.startswith("file:") else value
        for name, value in document.items()
        if isinstance(value, str)
    }
    with TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        (repository / "colours").mkdir(parents=True)
        try:
            staged = stage_override("colours", parameters, repository)
        except InvalidInput as error:
            check_text(error)
            return
        with staged:
            root = Path(staged.name)
            assert all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
        assert list(Path(name).iterdir()) == [repository]

"""Whatever is sent or lies there as the files of a model tells its tensors and stays in its folder,
or is refused."""

import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings

from serving.base.errors import EngineUnavailable, InvalidInput
from serving.repository.onnx_file import NotTold, content_digest, read_facts
from serving.repository.override import stage_override
from tests.fuzz.changed import changed, check_text
from tests.support.mutation import changed_json, changed_message
from tests.support.published import graph

TASKS = ("classification", "segmentation", "embedding")
GRAPHS = [graph(task).SerializeToString() for task in TASKS]


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
        with closing(staged):
            root = staged.path
            assert all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
        assert list(Path(name).iterdir()) == [repository]

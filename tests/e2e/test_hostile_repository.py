"""A repository that somebody filled to harm: every entry is its own problem, and others serve."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.models.loading.helper import Helper
from tests.support.process import ServerProcess
from tests.support.published import graph, publish

ROOT = Path(__file__).parents[2]
PLANTED = ("json", "serving", "training", "loadtest", "multiprocessing", "convserve", "typer")


def fifo(name: str) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return make


def device(model: Path) -> None:
    (model / "1" / "manifest.json").unlink()
    (model / "1" / "manifest.json").symlink_to("/dev/zero")


def circle(model: Path) -> None:
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.onnx").symlink_to("model.onnx")


def circle_of_folders(model: Path) -> None:
    (model / "2").symlink_to("2")


def huge_manifest(model: Path) -> None:
    os.truncate(model / "1" / "manifest.json", 1 << 36)


def deep_manifest(model: Path) -> None:
    (model / "1" / "manifest.json").write_text("[" * 1_000_000)


def outside(model: Path) -> None:
    path = model / "1" / "manifest.json"
    document = json.loads(path.read_text())
    document["variants"][0]["file"] = "/etc/passwd"
    path.write_text(json.dumps(document))


def secret_labels(model: Path) -> None:
    (model / "labels.txt").unlink()
    (model / "labels.txt").symlink_to("/etc/passwd")
    (model / "1" / "manifest.json").unlink()


def huge_batches(model: Path) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 2147483647"))


def huge_rows(model: Path) -> None:
    file = model / "1" / "model.onnx"
    network = graph("classification")
    for axis in (1, 2):
        network.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 1_000_000
    onnx.save(network, file)
    (model / "config.pbtxt").unlink()
    (model / "1" / "manifest.json").unlink()


def odd_name(model: Path) -> None:
    model.rename(model.with_name("a\n\x1b[31mb"))


def no_utf8(model: Path) -> None:
    model.rename(model.with_name(os.fsdecode(b"\xff")))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo-config": (fifo("config.pbtxt"), "is no regular file"),
    "fifo-manifest": (fifo("1/manifest.json"), "is no regular file"),
    "fifo-model": (fifo("1/model.onnx"), "is no regular file"),
    "fifo-samples": (fifo("1/samples.npz"), "is no regular file"),
    "device": (device, "leads out of its folder"),
    "circle": (circle, "symbolic links"),
    "circle-of-folders": (circle_of_folders, "symbolic links"),
    "huge-manifest": (huge_manifest, "more than 16,777,216 bytes"),
    "deep-manifest": (deep_manifest, "not valid JSON"),
    "outside": (outside, "file in the version's folder"),
    "secret-labels": (secret_labels, "leads out of its folder"),
    "huge-batches": (huge_batches, "max_batch_size: expected 0 to 16384"),
    "huge-rows": (huge_rows, "than calls may hold"),
    r"a\n\x1b[31mb": (odd_name, "no name for a model"),
    r"\udcff": (no_utf8, "no name for a model"),
}


def test_each_bad_entry_is_its_own_problem_and_the_others_serve(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number, (harm, _) in enumerate(FAULTS.values()):
        name = list(FAULTS)[number] if harm not in (odd_name, no_utf8) else f"plain{number}"
        publish(models, name)
        harm(models / name)
    publish(models, "zz-good")  # loaded last
    (models / "round").symlink_to("round")
    control = ("--model-control", "poll", "--poll-seconds", "0.2", "--allow-ungated")
    server = ServerProcess(models, *control, "--engine", "onnxruntime", cache=tmp_path / "cache")
    try:
        assert server.wait_for_log("model ready", model="zz-good")["variant"] == "fp32"
        status, text = server.wait_ready().get(f"{server.http}/readyz")
        assert status == 200
        told = [line for line in text.splitlines()[1:] if not line.startswith("process ")]
        lines = {line.partition(": ")[0].partition("/")[0]: line for line in told}
        assert set(lines) - {*FAULTS, "round", "zz-good"} == set()
        for name, (_, reason) in FAULTS.items():
            assert reason in lines[name], name
        assert "symbolic links" in lines["round"]
        assert text.replace("\n", "").isprintable()
        assert "root:" not in text + json.dumps(server.log)
        publish(models, "zz-later")
        server.wait_for_log("model ready", model="zz-later")
    finally:
        server.kill()


def test_overrides_leave_no_files_and_reach_none_outside(tmp_path: Path) -> None:
    models = tmp_path / "models"
    publish(models)
    config = json.dumps({"max_batch_size": 2})
    server = ServerProcess(
        models, "--model-control", "explicit", "--allow-ungated", "--admin", "open",
        cache=tmp_path / "cache",
    )  # fmt: skip
    content = (models / "colours" / "1" / "model.onnx").read_bytes()
    try:
        with triton.InferenceServerClient(server.url) as client:
            files = {"file:1/model.onnx": content}
            client.load_model("colours", config=config, files=files)
            assert client.is_model_ready("colours")
            for name in (
                "file:1/../../x",
                "file:1//etc/x",
                "file:../1/x",
                "file:1/a\\b",
                "file:1/",
            ):
                with pytest.raises(InferenceServerException, match="expected file:"):
                    client.load_model("colours", config=config, files={name: content})
            with pytest.raises(InferenceServerException):
                client.load_model("new", config=config, files={"file:1/model.onnx": b"broken"})
            client.unload_model("colours")
        assert list(tmp_path.glob("convserve-*")) == []
    finally:
        server.kill()


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of modules with well-known names, each of which leaves a mark."""
    folder = tmp_path / "planted"
    for name in PLANTED:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            f"import pathlib; pathlib.Path({str(tmp_path / 'PWNED')!r}).touch()"
        )
    return folder


COMMAND = """
import multiprocessing, sys
from convserve.__main__ import main
if __name__ == "__main__":
    sys.argv = ["convserve", "doctor", "--json"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    child.join()
    assert child.exitcode == 0
"""


def test_no_command_takes_a_module_of_the_working_folder(tmp_path: Path, planted: Path) -> None:
    # As pip writes a console script: its own folder comes first on the path.
    script = tmp_path / "bin" / "convserve-command"
    script.parent.mkdir()
    script.write_text(COMMAND)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run(
        [sys.executable, str(script)], cwd=planted, env=environment, check=True, capture_output=True
    )
    assert not (tmp_path / "PWNED").exists()


def test_a_helper_takes_no_module_of_the_working_folder_or_the_environment(
    tmp_path: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "models")
    monkeypatch.chdir(planted)
    monkeypatch.setenv("PYTHONPATH", f":.:{planted}")
    monkeypatch.setenv("PYTHONSTARTUP", str(planted / "json" / "__init__.py"))
    assert Helper("plans", path=tmp_path / "none", cache_dir=tmp_path).run is not None
    with pytest.raises(Exception, match="cannot be read"):
        Helper("plans", path=tmp_path / "none", cache_dir=tmp_path).run()
    assert not (tmp_path / "PWNED").exists()

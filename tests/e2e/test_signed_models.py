"""Servers that ask for signatures: whatever way a model comes, nobody else's is served."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from tritonclient.utils import InferenceServerException

from protos.gen import model_config_pb2 as pb
from serving.repository.signing.statement import SIGNATURE_FILE, sign_version
from tests.support.process import START_SECONDS, ServerProcess
from tests.support.published import config, graph, publish
from tests.support.signed import Signer

Start = Callable[..., ServerProcess]
# The engine process has the settings and follows the keys by itself.
PROCESSES = pytest.mark.parametrize(
    "process", ["--engine-process", pytest.param("--no-engine-process", marks=pytest.mark.slow)]
)
OURS, NEXT, FOREIGN = Signer(), Signer(), Signer()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir(mode=0o755)
    OURS.write(tmp_path, "ours")[1].rename(tmp_path / "keys" / "ours.pub")
    return tmp_path / "models"


@pytest.fixture
def start(models: Path, start_server: Start) -> Start:
    def start(*flags: str) -> ServerProcess:
        keys = ("--require-signature", str(models.parent / "keys"))
        return start_server(models, "--engine", "onnxruntime", "--threads", "1", *keys, *flags)

    return start


def signed(models: Path, name: str, signer: Signer = OURS, **settings: Any) -> Path:
    folder = publish(models, name, **settings)
    sign_version(folder, signer.private)
    return folder


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def answers(server: ServerProcess, name: str) -> None:
    """Raises InferenceServerException unless it does, rightly."""
    image = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    image.set_data_from_numpy(np.full((1, 8, 8, 3), 100, np.uint8))
    with triton.InferenceServerClient(server.url) as client:
        logits = client.infer(name, [image]).as_numpy("logits")
    assert logits is not None
    assert np.allclose(logits, 100 * 10 / 255, rtol=0.01)


def test_versions_are_refused_unless_a_trusted_key_has_signed_them_as_they_are(
    models: Path, start: Start
) -> None:
    signed(models, "good")
    tuned = signed(models, "tuned")
    change(tuned.parent / "config.pbtxt", "max_batch_size: 8", "max_batch_size: 4")
    added = signed(models, "added")
    (added / "model.int8.onnx").touch()
    reasons = {
        "unsigned": "unsigned/1: no signature.json: nobody has signed it",
        "foreign": f"signed by key {FOREIGN.id}, which is not trusted; trusted: {OURS.id}",
        "manifest": f"manifest.json: is not the file that key {OURS.id} signed: it has another",
        "weights": f"model.onnx: is not the file that key {OURS.id} signed: it has another content",
        "missing": f"samples.npz: key {OURS.id} signed it, and it is not there",
        "tensors": f"tensors/1: output in config.pbtxt is not as key {OURS.id} signed it",
        "renamed": f"renamed/1: key {OURS.id} signed it as version 1 of 'good'; where it was",
        "renumbered": f"renumbered/2: key {OURS.id} signed it as version 1 of 'renumbered'",
        "garbage": "signature.json: document: ",
        "large": "signature.json: cannot be read: has more than 4,194,304 bytes",
        "names": f"names/labels.txt: is not the file that key {OURS.id} signed",
        "incomplete": f"model.onnx: is not the file that key {OURS.id} signed",
    }
    publish(models, "unsigned")
    signed(models, "foreign", FOREIGN)
    change(signed(models, "manifest") / "manifest.json", "0.99", "1.00")
    file = signed(models, "weights") / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x15")
    (signed(models, "missing") / "samples.npz").unlink()
    change(signed(models, "tensors").parent / "config.pbtxt", 'filename: "labels', 'filename: "bad')
    shutil.copytree(models / "good", models / "renamed")
    folder = signed(models, "renumbered")
    folder.rename(folder.parent / "2")
    (signed(models, "garbage") / SIGNATURE_FILE).write_bytes(b"[" * 100_000)
    (signed(models, "large") / SIGNATURE_FILE).write_bytes(b" " * (5 << 20))
    folder = publish(models, "names")
    (folder / "manifest.json").unlink()
    sign_version(folder, OURS.private)
    (folder.parent / "labels.txt").write_text("blue\ngreen\nred\n")
    folder = publish(models, "incomplete")
    (folder.parent / "config.pbtxt").write_text("max_batch_size: 8\n")
    sign_version(folder, OURS.private)
    (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size)
    server = start("--allow-ungated").wait_ready()
    for name, reason in reasons.items():
        told = server.wait_for_log("model not loaded", model=name)["reason"]
        assert reason in told, name
    for name in ("good", "tuned", "added"):
        answers(server, name)
        ready = server.wait_for_log("model ready", model=name)
        assert ready["signed_by"] == [OURS.id]
    assert server.chosen().keys() == {"good", "tuned", "added"}
    passed_over = server.wait_for_log("files that nobody has signed are passed over")
    assert (passed_over["model"], passed_over["files"]) == ("added", "('model.int8.onnx',)")
    refusal = 'convserve_signature_refusals_total{model="weights",version="1"}'
    assert server.metric(refusal) == 1
    with triton.InferenceServerClient(server.url) as client:
        parameters = client.get_model_config("good").config.parameters
        assert parameters["signed_by"].string_value == OURS.id
    left = [path.name for path in (models.parent / "cache").rglob("signed/*")]
    assert not left
    assert server.terminate() == 0


@PROCESSES
def test_keys_are_followed_and_a_withdrawn_one_takes_its_models_with_it(
    process: str, models: Path, start: Start
) -> None:
    keys = models.parent / "keys"
    (keys / "next.pub").write_text(NEXT.pem)
    first = signed(models, "first")
    signed(models, "second", NEXT)
    server = start(process, "--model-control", "poll", "--poll-seconds", "0.1").wait_ready()
    answers(server, "first")
    (keys / "ours.pub").unlink()
    withdrawn = f"first/1: key {OURS.id}, which signed it, is not trusted any more"
    server.wait_for_log("model distrusted", model="first", reason=withdrawn)
    wait_until(server, "first", ready=False)
    answers(server, "second")
    with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*not ready"):
        answers(server, "first")
    sign_version(first, NEXT.private)
    wait_until(server, "first", ready=True)
    answers(server, "first")
    (keys / "next.pub").unlink()  # nobody is trusted
    for name in ("first", "second"):
        wait_until(server, name, ready=False)
    (keys / "next.pub").write_text(NEXT.pem)
    for name in ("first", "second"):
        wait_until(server, name, ready=True)
        answers(server, name)


def wait_until(server: ServerProcess, name: str, *, ready: bool) -> None:
    end = time.monotonic() + START_SECONDS
    while (server.get(f"{server.http}/v2/models/{name}/ready")[0] == 200) is not ready:
        assert time.monotonic() < end, server.log
        time.sleep(0.02)  # between two looks at a condition that no event tells of


@PROCESSES
def test_load_calls_bring_no_files_and_no_other_tensors(
    process: str, models: Path, start: Start
) -> None:
    signed(models, "colours")
    server = start(process, "--model-control", "explicit")
    with triton.InferenceServerClient(server.admin) as client:
        client.load_model("colours")
        answers(server, "colours")
        given = json.dumps({"platform": "onnxruntime_onnx", "max_batch_size": 8})
        file = graph("classification").SerializeToString()
        with pytest.raises(InferenceServerException, match="nobody has signed the files of a call"):
            client.load_model("colours", config=given, files={"file:1/model.onnx": file})
        with pytest.raises(InferenceServerException, match=r"input, output in config.pbtxt is not"):
            client.load_model("colours", config=given)
        answers(server, "colours")
        tuned = as_json(config("classification", max_batch_size=2))
        client.load_model("colours", config=tuned)
        assert client.get_model_config("colours").config.max_batch_size == 2
        # Beside what serves, by a loader process.
        folder = signed(models, "colours2").rename(models / "colours" / "2")
        with pytest.raises(InferenceServerException, match="signed it as version 1 of 'colours2'"):
            client.load_model("colours")
        sign_version(folder, FOREIGN.private)
        with pytest.raises(InferenceServerException, match=f"signed by key {FOREIGN.id}"):
            client.load_model("colours")
        sign_version(folder, OURS.private)
        client.load_model("colours")
        answers(server, "colours")
        server.wait_for_log("model ready", version="2")
        ready = [line for line in server.log if line["message"] == "model ready"]
        assert all(line["signed_by"] == [OURS.id] for line in ready)


def as_json(text: str) -> str:
    return json_format.MessageToJson(text_format.Parse(text, pb.ModelConfig()))


@pytest.mark.slow
def test_engine_process_that_starts_anew_with_broken_keys_serves_nothing(
    models: Path, start: Start
) -> None:
    signed(models, "colours")
    server = start("--engine-process").wait_ready()
    key = models.parent / "keys" / "ours.pub"
    key.write_text(OURS.pem[:60])
    server.wait_for_log("the file cannot be used, its last good content stays")
    answers(server, "colours")
    _, text = server.get(f"{server.http}/readyz")
    [line] = [line for line in text.splitlines() if line.startswith("process engine: pid ")]
    os.kill(int(line.split()[3].rstrip(",")), signal.SIGKILL)
    reason = server.wait_for_log("the engine process cannot start")["reason"]
    assert reason == f"--require-signature: {key}: key 1: is no public key in PEM form"
    key.write_text(OURS.pem)
    wait_until(server, "colours", ready=True)
    answers(server, "colours")


def test_server_does_not_start_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(tmp_path)]
    done = subprocess.run(
        [*command, "--require-signature", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"convserve: --require-signature: {tmp_path} holds no key\n"

"""TensorRT plans, made and served by real processes on a machine that seems to have two GPUs."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import VisionClient
from serving.repository.signing.statement import sign_version
from tests.support import fake_gpu
from tests.support.process import ServerProcess
from tests.support.published import evidence, publish
from tests.support.signed import Signer

Start = Callable[..., ServerProcess]
RED = np.zeros((8, 8, 3), np.uint8)
RED[..., 0] = 100


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[ServerProcess] = []

    def start(repository: Path, *flags: str, **settings: str) -> ServerProcess:
        env = {"CONVSERVE_ENGINE_PROCESSES": "1", **fake_gpu.environment(**settings)}
        running.append(ServerProcess(repository, *flags, cache=tmp_path / "cache", env=env))
        return running[-1]

    yield start
    for server in running:
        server.kill()


def rebuild(tmp_path: Path, *flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convserve", "rebuild", "--json"]
    command += ["--model-repository", str(tmp_path / "models")]
    command += ["--cache-dir", str(tmp_path / "cache"), *flags]
    env = fake_gpu.environment(**settings)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_model_that_cannot_be_read_does_not_keep_the_others_from_their_plans(
    tmp_path: Path,
) -> None:
    publish(tmp_path / "models", "broken")
    (tmp_path / "models" / "broken" / "config.pbtxt").write_text("input {")
    publish(tmp_path / "models", "colours")
    result = rebuild(tmp_path)
    states = {line["model"]: line["state"] for line in json.loads(result.stdout)}
    assert (result.returncode, states) == (1, {"broken": "failed", "colours": "built"})
    assert result.stderr.startswith("convserve: broken: ")
    assert len(result.stderr.splitlines()) == 1


def variant_of(server: ServerProcess) -> str:
    with VisionClient(server.url) as client:
        answer = client.classify("colours", RED)
    assert answer.results[0].labels[0].name == "red"
    return answer.served.variant


def add_variant(folder: Path, file: str, content: bytes, **fields: Any) -> None:
    (folder / file).write_bytes(content)
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["variants"].append(
        {
            "file": file,
            "sha256": hashlib.sha256(content).hexdigest(),
            "precision": "fp16",
            "evidence": {"tensorrt": evidence().model_dump(mode="json")},
            **fields,
        }
    )
    path.write_text(json.dumps(document))


def test_rebuilt_plan_is_served_and_the_repository_is_as_it_was(
    tmp_path: Path, start: Start
) -> None:
    folder = publish(tmp_path / "models", extra_config="optimization { cuda { graphs: true } }")
    before = sorted(path.name for path in folder.iterdir())
    first, again = rebuild(tmp_path), rebuild(tmp_path)
    assert first.returncode == again.returncode == 0, first.stderr
    [line] = json.loads(first.stdout)
    assert (line["state"], line["variant"], line["compute_capability"]) == (
        "built", "fp32-sm90", "9.0",
    )  # fmt: skip
    assert json.loads(again.stdout)[0]["state"] == "there already"
    assert sorted(path.name for path in folder.iterdir()) == before
    server = start(tmp_path / "models").wait_ready()
    ready = server.wait_for_log("model ready")
    assert (ready["variant"], ready["engine"]) == ("fp32-sm90", "tensorrt")
    assert any("the CPU is not asked" in reason for reason in ready["not_chosen"])
    loaded = server.wait_for_log("plan loaded")
    assert loaded["devices"] == [0, 0, 1, 1]
    assert loaded["device_bytes"] > 0
    assert loaded["graph_batch_sizes"] == [1, 2, 4, 8]
    assert variant_of(server) == "fp32-sm90"
    held = server.metric('convserve_model_device_memory_bytes{model="colours",version="1"}')
    assert held == loaded["device_bytes"]
    assert server.metric('nv_gpu_utilization{gpu_uuid="GPU-fake-0"}') == 0.25
    assert server.terminate() == 0


def test_a_plan_for_fewer_images_than_there_are_samples_passes_the_self_check(
    tmp_path: Path, start: Start
) -> None:
    publish(tmp_path / "models", max_batch_size=2)
    assert rebuild(tmp_path).returncode == 0
    server = start(tmp_path / "models").wait_ready()
    assert variant_of(server) == "fp32-sm90"


def test_build_plans_serves_at_once_and_switches(tmp_path: Path, start: Start) -> None:
    publish(tmp_path / "models")
    server = start(tmp_path / "models", "--build-plans", "--engine-processes", "2").wait_ready()
    server.wait_for_log("model ready", variant="fp32")
    assert variant_of(server) in ("fp32", "fp32-sm90")
    for number in range(2):
        process = f"engine {number}"
        switched = {"variant": "fp32-sm90", "engine": "tensorrt", "engine_process": process}
        server.wait_for_log("model ready", **switched)
    assert variant_of(server) == "fp32-sm90"
    assert server.terminate() == 0


def test_two_gpus_of_one_architecture_have_plans_of_their_own(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    built = json.loads(rebuild(tmp_path, FAKE_GPU_SECOND="Fake H100").stdout)
    assert {line["variant"]: line["gpu"] for line in built} == {
        "fp32-sm90-fake-h200": "Fake H200",
        "fp32-sm90-fake-h100": "Fake H100",
    }


def test_a_plan_that_lost_its_file_is_made_again(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    [line] = json.loads(rebuild(tmp_path).stdout)
    Path(line["file"]).unlink()
    [again] = json.loads(rebuild(tmp_path).stdout)
    assert again["state"] == "built"


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "plans").write_text("in the way")
    failed = rebuild(tmp_path)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "cache/plans" in failed.stderr
    assert "directory" in failed.stderr.lower()


def test_a_model_is_loaded_once_where_its_plans_are_there(tmp_path: Path, start: Start) -> None:
    publish(tmp_path / "models")
    assert rebuild(tmp_path).returncode == 0
    server = start(tmp_path / "models", "--build-plans").wait_ready()
    server.wait_for_log("no new plans")
    assert variant_of(server) == "fp32-sm90"
    assert server.terminate() == 0
    assert len([line for line in server.log if line["message"] == "model ready"]) == 1


def test_plan_whose_answers_are_wrong_here_is_not_served(tmp_path: Path, start: Start) -> None:
    folder = publish(tmp_path / "models")
    assert rebuild(tmp_path).returncode == 0
    with np.load(folder / "samples.npz") as samples:
        np.savez(folder / "samples.npz", image=samples["image"], logits=samples["logits"] * 1.2)
    server = start(tmp_path / "models")
    reason = server.wait_for_log("model not loaded")["reason"]
    assert "fp32-sm90 in tensorrt answers wrongly on this machine" in reason


def test_plan_for_another_version_or_gpu_falls_back_with_the_reason(
    tmp_path: Path, start: Start
) -> None:
    folder = publish(tmp_path / "models")
    old = {"tensorrt_version": "10.13.3", "compute_capability": "9.0"}
    add_variant(folder, "model.fp16-sm90.plan", b"plan", id="fp16-sm90", **old)
    other = {"tensorrt_version": "11.4.0", "compute_capability": "8.0"}
    add_variant(folder, "model.fp16-sm80.plan", b"plan", id="fp16-sm80", **other)
    broken = {"tensorrt_version": "11.4.0", "compute_capability": "9.0"}
    add_variant(folder, "model.int8-sm90.plan", b"plan", id="int8-s8-sm90", **broken)
    server = start(tmp_path / "models").wait_ready()
    ready = server.wait_for_log("model ready")
    assert ready["variant"] == "fp32"
    reasons = " ".join(ready["not_chosen"])
    assert "the plan is for TensorRT 10.13.3, compute capability 9.0; this is TensorRT" in reasons
    assert "GPU 0 is Fake H200, compute capability 9.0" in reasons
    assert "magic tag does not match" in reasons


def test_failed_build_is_told_and_what_serves_goes_on(tmp_path: Path, start: Start) -> None:
    publish(tmp_path / "models")
    failed = rebuild(tmp_path, FAKE_TENSORRT_REFUSE="no kernel")
    assert failed.returncode == 1
    assert "fp32-sm90" in failed.stderr
    assert "no kernel" in failed.stderr
    server = start(tmp_path / "models", "--build-plans", FAKE_TENSORRT_REFUSE="no kernel")
    assert "no kernel" in server.wait_for_log("plans not built")["reason"]
    assert variant_of(server) == "fp32"


def test_gpus_that_the_config_names_are_used_and_missing_ones_refused(
    tmp_path: Path, start: Start
) -> None:
    group = "instance_group { kind: KIND_GPU gpus: [%s] count: 1 }"
    publish(tmp_path / "models", extra_config=group % "1")
    publish(tmp_path / "models", "missing", extra_config=group % "5")
    assert rebuild(tmp_path).returncode == 0
    server = start(tmp_path / "models").wait_ready()
    assert server.wait_for_log("plan loaded")["devices"] == [1]
    assert "no GPU 5; this machine has [0, 1]" in server.wait_for_log("model not loaded")["reason"]


def test_gpu_model_on_a_machine_without_one_says_so(tmp_path: Path) -> None:
    publish(tmp_path / "models", extra_config="instance_group { kind: KIND_GPU }")
    server = ServerProcess(tmp_path / "models", cache=tmp_path / "cache")
    reason = server.wait_for_log("model not loaded")["reason"]
    server.kill()
    assert "asks for KIND_GPU: no NVIDIA driver here" in reason


def test_rebuild_without_a_gpu_fails_with_the_reason(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    command = [sys.executable, "-m", "convserve", "rebuild"]
    command += ["--model-repository", str(tmp_path / "models"), "--cache-dir", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.startswith("convserve: tensorrt: no NVIDIA driver here")


def test_doctor_names_the_gpus_and_what_is_missing_of_the_rest() -> None:
    command = [sys.executable, "-m", "convserve", "doctor", "--json"]
    env = fake_gpu.environment()
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    report = json.loads(finished.stdout)
    gpu = {"name": "Fake H200", "memory_bytes": 16384 << 20, "driver": "580.65"}
    assert report["gpus"] == [gpu, gpu]
    assert report["engines"]["tensorrt"]["version"] == "11.4.0"
    assert "without CUDAExecutionProvider" in report["engines"]["onnxruntime-cuda"]["reason"]


def test_plans_are_made_of_signed_networks_alone_where_signatures_are_asked_for(
    tmp_path: Path, start: Start
) -> None:
    signer = Signer()
    _, public = signer.write(tmp_path, "key")
    publish(tmp_path / "models", "unsigned")
    sign_version(publish(tmp_path / "models", "signed"), signer.private)
    asked = ("--require-signature", str(public))
    result = rebuild(tmp_path, *asked)
    states = {line["model"]: line["state"] for line in json.loads(result.stdout)}
    assert (result.returncode, states) == (1, {"signed": "built", "unsigned": "failed"})
    assert "unsigned/1: no signature.json: nobody has signed it" in result.stderr
    server = start(tmp_path / "models", *asked, "--no-engine-process").wait_ready()
    ready = server.wait_for_log("model ready", engine="tensorrt")
    assert (ready["model"], ready["signed_by"]) == ("signed", [signer.id])

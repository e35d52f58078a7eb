"""A server with an engine process for each of two GPUs, on a machine that seems to have them; and
for each part of the cores on one without."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.client import VisionClient
from tests.support import fake_gpu
from tests.support.process import ServerProcess
from tests.support.published import publish

GROUP = "instance_group { kind: KIND_GPU gpus: [%s] count: 1 }"
COLOURS = {"red": (100, 0, 0), "green": (0, 100, 0), "blue": (0, 0, 100)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its models: of both GPUs, of the second, and of none that is there."""
    folder = tmp_path_factory.mktemp("two")
    publish(folder / "models")
    publish(folder / "models", "second", extra_config=GROUP % 1)
    publish(folder / "models", "missing", extra_config=GROUP % 5)
    env = fake_gpu.environment()
    command = [sys.executable, "-m", "convserve", "rebuild"]
    command += ["--model-repository", str(folder / "models"), "--cache-dir", str(folder / "cache")]
    subprocess.run(command, env=env, check=False, capture_output=True)
    server = ServerProcess(folder / "models", cache=folder / "cache", env=env).wait_ready()
    yield server
    server.kill()


def engine_pids(server: ServerProcess) -> list[int]:
    """The engine processes that run now, as /readyz names them."""
    _, text = server.get(f"{server.http}/readyz")
    lines = [line for line in text.splitlines() if line.startswith("process engine ")]
    assert [line.split(":")[0] for line in lines] == ["process engine 0", "process engine 1"]
    pids = [line.split("pid ")[1].split(",")[0] for line in lines]
    return [int(pid) for pid in pids if pid != "none"]


def label(server: ServerProcess, model: str, colour: str) -> str:
    with VisionClient(server.url) as client:
        answer = client.classify(model, np.full((8, 8, 3), COLOURS[colour], np.uint8))
    return str(answer.results[0].labels[0].name)


def test_each_gpu_has_a_process_that_sees_it_alone(two: ServerProcess) -> None:
    pids = engine_pids(two)
    assert two.process.pid not in pids
    for number, pid in enumerate(pids):
        settings = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert f"CUDA_VISIBLE_DEVICES=GPU-fake-{number}".encode() in settings
    _, text = two.get(two.metrics_url)
    shown = [line for line in text.splitlines() if line.startswith("nv_gpu_utilization{")]
    assert len(shown) == 2


def test_a_model_is_loaded_where_its_config_says(two: ServerProcess) -> None:
    ready = [line for line in two.log if line["message"] == "model ready"]
    assert sorted((line["model"], line["engine_process"]) for line in ready) == [
        ("colours", "engine 0"), ("colours", "engine 1"), ("second", "engine 1"),
    ]  # fmt: skip
    loaded = {line["engine_process"]: line for line in two.log if line["message"] == "plan loaded"}
    assert loaded.keys() == {"engine 0", "engine 1"}
    assert {0} == {device for line in loaded.values() for device in line["devices"]}
    reason = two.wait_for_log("model not loaded", model="missing")["reason"]
    assert "no GPU 5; this machine has [0, 1]" in reason
    assert label(two, "second", "blue") == "blue"
    gauge = 'convserve_model_ready{model="%s",version="1"}'
    assert [two.metric(gauge % name) for name in ("colours", "second")] == [1, 1]
    held = two.metric('convserve_model_device_memory_bytes{model="colours",version="1"}')
    of_one = [
        line["device_bytes"]
        for line in two.log
        if line["message"] == "plan loaded" and line["engine_process"] == "engine 0"
    ]
    assert held == 2 * of_one[-1]


def test_answers_go_on_while_the_process_of_one_gpu_is_dead(two: ServerProcess) -> None:
    over, found = threading.Event(), list[bool]()

    def ask() -> None:
        with VisionClient(two.url) as client:
            while not over.is_set():
                for name, colour in COLOURS.items():
                    answer = client.classify("colours", np.full((8, 8, 3), colour, np.uint8))
                    found.append(answer.results[0].labels[0].name == name)

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        try:
            before = engine_pids(two)
            os.kill(before[0], 9)
            two.wait_for_log("engine process ended", engine_process="engine 0")
            count, end = len(found), time.monotonic() + 60
            while len(found) < count + 40:  # long before the process is back
                assert two.get(f"{two.http}/readyz")[0] == 200
                assert not any(task.done() for task in asking)
            while len(now := engine_pids(two)) < 2 or now[0] == before[0]:
                assert time.monotonic() < end
                time.sleep(0.02)  # between two looks at a condition that no event tells of
        finally:
            over.set()
        for task in asking:
            task.result()
    assert all(found)
    assert now[1] == before[1]


def test_all_processes_end_with_the_server(two: ServerProcess) -> None:
    pids = engine_pids(two)
    assert two.terminate() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_without_a_gpu_the_cores_are_shared_out(tmp_path: Path, cache: Path) -> None:
    publish(tmp_path)
    flags = ("--engine-process", "--engine-processes", "2", "--engine", "onnxruntime")
    server = ServerProcess(tmp_path, *flags, cache=cache).wait_ready()
    try:
        mine = os.sched_getaffinity(server.process.pid)
        cores = [os.sched_getaffinity(pid) for pid in engine_pids(server)]
        if len(mine) > 1:
            assert cores[0] & cores[1] == set()
            assert cores[0] | cores[1] == mine
        assert label(server, "colours", "green") == "green"
    finally:
        server.kill()


def test_more_processes_than_gpus_are_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(tmp_path)]
    command += ["--engine-processes", "3"]
    env = fake_gpu.environment()
    failed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == ("convserve: --engine-processes 3: expected at most 2, the GPUs here\n")

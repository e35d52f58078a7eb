"""Start, readiness, reload, drain and stop of a real server process."""

import asyncio
import io
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from serving.client import AsyncVisionClient, CallFailed, VisionClient
from serving.repository.manifest import Gate
from tests.support.process import ServerProcess
from tests.support.published import publish

StartServer = Callable[..., ServerProcess]
GREY = np.full((8, 8, 3), 90, np.uint8)


def score_of_red(server: ServerProcess) -> float:
    """Of an image that is red and black: it tells the gains of two versions apart."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 100
    with VisionClient(server.url) as client:
        return client.classify("colours", red).results[0].labels[0].score


def test_health_answers_for_server_services_and_models(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "colours", "convserve.vision.v1.VisionService"):
            status = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING, service
        with pytest.raises(grpc.RpcError) as failure:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_every_service(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.url) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [response] = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in response.list_services_response.service}
    assert {
        "convserve.vision.v1.VisionService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } <= names


def test_probes_answer(server: ServerProcess) -> None:
    assert server.get(f"{server.http}/livez") == (200, "ok\n")
    status, text = server.get(f"{server.http}/readyz")
    assert (status, text.splitlines()[0]) == (200, "ready")


def test_broken_models_are_reported_and_the_others_serve(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    publish(tmp_path, "typo")
    (tmp_path / "typo" / "config.pbtxt").write_text("max_batch_sise: 4\n")
    (publish(tmp_path, "damaged") / "model.onnx").write_bytes(b"not a network")
    (publish(tmp_path, "garbled") / "manifest.json").write_text("{")
    publish(tmp_path, "refused", gate=Gate(passed=False, reason="drops 5 points"))
    (publish(tmp_path, "unproved") / "manifest.json").unlink()
    (tmp_path / "empty").mkdir()
    server = start_server(tmp_path).wait_ready()
    assert score_of_red(server) > 0.5
    _, text = server.get(f"{server.http}/readyz")
    reasons = {line.split(":")[0].split("/")[0]: line for line in text.splitlines()[1:]}
    assert "max_batch_sise" in reasons["typo"]
    assert "sha256" in reasons["damaged"]
    assert "manifest.json" in reasons["garbled"]
    assert "drops 5 points" in reasons["refused"]
    assert "--allow-ungated" in reasons["unproved"]
    assert "config.pbtxt" in reasons["empty"]
    client = triton.InferenceServerClient(server.url)
    index = {m["name"]: m for m in client.get_model_repository_index(as_json=True)["models"]}
    assert index["colours"]["state"] == "READY"
    for name in ("typo", "damaged", "garbled", "refused", "unproved", "empty"):
        assert index[name]["state"] == "UNAVAILABLE"
        assert index[name]["reason"]
    client.close()
    with VisionClient(server.url, retries=0) as vision, pytest.raises(CallFailed) as failure:
        vision.classify("damaged", GREY)
    assert failure.value.code == "UNAVAILABLE"


def test_strict_readiness_waits_for_every_model(tmp_path: Path, start_server: StartServer) -> None:
    publish(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").write_text("max_batch_size: 4\n")
    server = start_server(tmp_path, "--strict-readiness")
    server.wait_for_log("model ready", model="colours")
    server.wait_for_log("no version to load", model="empty")
    assert server.get(f"{server.http}/readyz")[0] == 503


def test_sigterm_in_mid_load_loses_no_accepted_call(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--drain-seconds", "4").wait_ready()

    async def load() -> tuple[int, list[str]]:
        """Eight callers in a closed loop until the server refuses them; answers and failures."""
        answers, failures = 0, []
        enough = asyncio.Event()

        async def caller() -> None:
            nonlocal answers
            async with AsyncVisionClient(server.url, retries=0) as client:
                while True:
                    try:
                        await client.classify("colours", GREY)
                    except CallFailed as failure:
                        failures.append(f"{failure.code} {failure.message}")
                        return
                    answers += 1
                    if answers > 200:
                        enough.set()

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await enough.wait()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait(callers, timeout=20)
        return answers, failures

    answers, failures = asyncio.run(load())
    assert server.wait() == 0
    assert answers > 200
    # A call that finds the door closed was never accepted; no other failure may happen.
    assert all(f.startswith("UNAVAILABLE") for f in failures), failures
    assert not any("reset" in f.lower() for f in failures), failures
    assert server.log[-1]["message"] == "stopped"


def test_health_turns_not_serving_while_draining(tmp_path: Path, start_server: StartServer) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--drain-seconds", "5").wait_ready()
    with grpc.insecure_channel(server.url) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
    assert server.wait() == 0


def test_second_signal_ends_at_once(tmp_path: Path, start_server: StartServer) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--drain-seconds", "600").wait_ready()
    channel = grpc.insecure_channel(server.url)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    next(watch)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log("draining")
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() != 0
    channel.close()


def test_poll_takes_over_a_new_version_and_rolls_back(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path, gain=1.0)
    server = start_server(tmp_path, "--model-control", "poll", "--poll-seconds", "0.1").wait_ready()
    weak = score_of_red(server)
    staged = tmp_path / ".staged"
    shutil.move(publish(staged, version=2, gain=20.0), tmp_path / "colours" / "2")
    server.wait_for_log("model ready", model="colours", version="2")
    strong = score_of_red(server)
    assert strong > weak + 0.1
    shutil.rmtree(tmp_path / "colours" / "2")
    server.wait_for_log("model retired", model="colours", version="2")
    _, metrics = server.get(server.metrics_url)
    shown = [x for x in metrics.splitlines() if x.startswith("convserve_model_accuracy_ratio{")]
    assert len(shown) == 1
    assert 'version="1"' in shown[0]
    assert score_of_red(server) == pytest.approx(weak)


def test_bad_new_version_is_reported_and_the_old_one_keeps_serving(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--model-control", "poll", "--poll-seconds", "0.1").wait_ready()
    before = score_of_red(server)
    staged = publish(tmp_path / ".staged", version=2)
    (staged / "model.onnx").write_bytes(b"cut short")
    shutil.move(staged, tmp_path / "colours" / "2")
    line = server.wait_for_log("model not loaded", model="colours")
    assert "sha256" in line["reason"]
    assert score_of_red(server) == before
    client = triton.InferenceServerClient(server.url)
    states = {m["version"]: m["state"] for m in _index(client)}
    assert states == {"1": "READY", "2": "UNAVAILABLE"}
    client.close()


def test_explicit_control_loads_and_unloads_by_call(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--model-control", "explicit")
    client = triton.InferenceServerClient(server.admin)
    assert not client.is_server_ready()
    with grpc.insecure_channel(server.url) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service, expected in (
            ("", health_pb2.HealthCheckResponse.NOT_SERVING),
            ("live", health_pb2.HealthCheckResponse.SERVING),
        ):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request).status == expected
    client.load_model("colours")
    assert client.is_model_ready("colours")
    assert client.is_server_ready()
    client.unload_model("colours")
    assert not client.is_model_ready("colours")
    with pytest.raises(InferenceServerException, match="no folder 'nothing'"):
        client.load_model("nothing")
    client.close()


def test_load_calls_are_refused_without_explicit_control(server: ServerProcess) -> None:
    client = triton.InferenceServerClient(server.admin)
    with pytest.raises(InferenceServerException, match="explicit"):
        client.unload_model("colours")
    assert client.is_model_ready("colours")
    client.close()


def test_port_in_use_is_one_clear_line(tmp_path: Path, colours: Path) -> None:
    import subprocess
    import sys

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flag in ("--grpc-port", "--http-port", "--metrics-port"):
            ports = {"--grpc-port": "0", "--http-port": "0", "--metrics-port": "0", flag: port}
            result = subprocess.run(
                [
                    *(sys.executable, "-m", "convserve", "serve", "--model-repository"),
                    str(colours),
                    *(word for pair in ports.items() for word in pair),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == 1
            assert f"{flag}: cannot listen" in result.stderr
            assert "Traceback" not in result.stderr


def test_any_address_of_ipv6_is_any_of_ipv4_on_every_port(
    colours: Path, start_server: StartServer
) -> None:
    server = start_server(colours, "--host", "::").wait_ready()
    ports = [urlsplit(url).port for url in (server.http, server.metrics_url)]
    grpc_port = server.url.rpartition(":")[2]
    for address in ("127.0.0.1", "[::1]"):
        for port in ports:
            assert server.get(f"http://{address}:{port}/livez") == (200, "ok\n")
        with VisionClient(f"{address}:{grpc_port}") as client:
            assert client.model_info("colours").name == "colours"


def _index(client: triton.InferenceServerClient) -> list[dict[str, str]]:
    models: list[dict[str, str]] = client.get_model_repository_index(as_json=True)["models"]
    return models


def test_reloads_under_load_fail_no_call_and_answer_from_one_version_or_the_other(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path, gain=1.0)
    publish(tmp_path, version=2, gain=20.0)
    config = tmp_path / "colours" / "config.pbtxt"
    text = config.read_text()
    server = start_server(tmp_path, "--model-control", "explicit")
    admin = triton.InferenceServerClient(server.admin)
    admin.load_model("colours")
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 100
    weak, strong = (np.exp(gain * 100 / 255) for gain in (1.0, 20.0))
    allowed = {1: weak / (weak + 2), 2: strong / (strong + 2)}

    async def body() -> tuple[int, set[str]]:
        answered, versions, done = 0, set[str](), False

        async def caller() -> None:
            nonlocal answered
            async with AsyncVisionClient(server.url, retries=0) as client:
                while not done:
                    response = await client.classify("colours", red)
                    version = response.served.version
                    score = response.results[0].labels[0].score
                    assert score == pytest.approx(allowed[int(version)], abs=1e-4)
                    versions.add(version)
                    answered += 1

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        for number in range(10):
            chosen = 1 + number % 2
            config.write_text(text + f"version_policy {{ specific {{ versions: {chosen} }} }}")
            await asyncio.to_thread(admin.load_model, "colours")
        done = True
        await asyncio.gather(*callers)
        return answered, versions

    answered, versions = asyncio.run(asyncio.wait_for(body(), 120))
    admin.close()
    assert answered >= 10
    assert versions == {"1", "2"}


def test_bytes_in_flight_are_bounded_for_images_and_tensors(
    tmp_path: Path, start_server: StartServer
) -> None:
    # A call waits a second for others to share its batch, and its bytes are held as long.
    folder = publish(tmp_path)
    config = folder.parent / "config.pbtxt"
    delay = "dynamic_batching { max_queue_delay_microseconds: 1000000 }"
    config.write_text(config.read_text().replace("dynamic_batching { }", delay))
    server = start_server(tmp_path, "--memory-mib", "1").wait_ready()
    large = np.zeros((500, 500, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, format="BMP")
    file = triton.InferInput("encoded", [1], "BYTES")
    file.set_data_from_numpy(np.array([buffer.getvalue()], np.object_))

    def as_image() -> None:
        with VisionClient(server.url, retries=0) as client:
            client.classify("colours", large)

    def as_tensor() -> None:
        with triton.InferenceServerClient(server.url) as client:
            client.infer("colours", [file])

    refused = (CallFailed, InferenceServerException)
    for second in (as_image, as_tensor):
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(as_image)
            while server.metric('convserve_memory_held_bytes{use="message"}') < 700_000:
                assert not waiting.done()
            with pytest.raises(refused, match="memory is short"):
                second()
            waiting.result()
        assert server.metric('convserve_memory_held_bytes{use="message"}') == 0


def test_connections_are_made_anew_when_they_are_old(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--max-connection-age-seconds", "0.5").wait_ready()
    left = threading.Event()
    with grpc.insecure_channel(server.url) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        channel.subscribe(
            lambda state: left.set() if state is not grpc.ChannelConnectivity.READY else None
        )
        left.clear()
        assert left.wait(timeout=10), "the server never told the client to go"
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert status.status == health_pb2.HealthCheckResponse.SERVING

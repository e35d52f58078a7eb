"""Every call of both wires passes one door, which knows how it ended."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.base.counting.totals import Totals
from serving.server.http import rest
from tests.support.in_process import SIDE, InProcess, in_process

OIP = "/inference.GRPCInferenceService/"
VISION = "/convserve.vision.v1.VisionService/"
HEALTH = {"ServerLive", "ServerReady", "ModelReady"}
UNARY = [
    method.name
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if not method.client_streaming
]
REST_CONTROL = [
    ("GET", "/v2", "ServerMetadata"),
    ("GET", "/v2/models/plain", "ModelMetadata"),
    ("GET", "/v2/models/plain/config", "ModelConfig"),
    ("GET", "/v2/models/plain/stats", "ModelStatistics"),
    ("GET", "/v2/models/stats", "ModelStatistics"),
    ("POST", "/v2/repository/index", "RepositoryIndex"),
    ("POST", "/v2/repository/models/none/load", "RepositoryModelLoad"),
    ("POST", "/v2/repository/models/none/unload", "RepositoryModelUnload"),
    ("GET", "/v2/systemsharedmemory/status", "SystemSharedMemoryStatus"),
    ("POST", "/v2/systemsharedmemory/region/r/register", "SystemSharedMemoryRegister"),
    ("POST", "/v2/systemsharedmemory/unregister", "SystemSharedMemoryUnregister"),
    ("GET", "/v2/cudasharedmemory/status", "CudaSharedMemoryStatus"),
    ("POST", "/v2/cudasharedmemory/region/r/register", "CudaSharedMemoryRegister"),
    ("POST", "/v2/cudasharedmemory/unregister", "CudaSharedMemoryUnregister"),
    ("GET", "/v2/trace/setting", "TraceSetting"),
    ("GET", "/v2/logging", "LogSettings"),
]

Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def tensor_call(size: int = 12, model: str = "plain") -> pb.ModelInferRequest:
    """x FP32 [1, 3], which takes 12 bytes, in `size` bytes."""
    request = pb.ModelInferRequest(model_name=model, id="mine")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(b"\0" * size)
    return request


def control_calls(metrics: Totals) -> float:
    """Of every method, however it ended."""
    [family] = [f for f in metrics.registry.collect() if f.name == "convserve_control_calls"]
    return sum(sample.value for sample in family.samples)


def requests(served: InProcess, method: str, code: str, model: str = "plain") -> float:
    version = "1" if model else ""
    return served.value(
        "convserve_requests_total", model=model, version=version, method=method, code=code
    )


@pytest.mark.parametrize(("http_method", "path", "method"), REST_CONTROL)
def test_every_rest_call_is_counted_by_its_method(
    tmp_path: Path, http_method: str, path: str, method: str
) -> None:
    async def scenario(served: InProcess) -> None:
        await served.rest(http_method, path)
        [family] = [
            f for f in served.metrics.registry.collect() if f.name == "convserve_control_calls"
        ]
        assert [(s.labels["method"], s.value) for s in family.samples] == [(method, 1)]

    serve(tmp_path, scenario)


def test_every_grpc_call_is_counted_but_those_about_health(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        for method in UNARY:
            before = control_calls(served.metrics)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await served.rpc(OIP + method, b"")
            counted = method not in HEALTH and method != "ModelInfer"
            assert control_calls(served.metrics) - before == counted, method
        assert requests(served, "ModelInfer", "NOT_FOUND", model="") == 1

    serve(tmp_path, scenario)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_message_are_bad_input_to_every_method(
    tmp_path: Path, data: bytes
) -> None:
    async def scenario(served: InProcess) -> None:
        methods = [OIP + method for method in UNARY if method not in ("ServerLive", "ServerReady")]
        methods += [VISION + method for method in ("Classify", "Segment", "Embed")]
        for method in (*methods, "/grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await served.rpc(method, data)
            assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT, method
        for method, kind in (
            ("ClassifyStream", vision.ClassifyResponse),
            ("SegmentStream", vision.SegmentResponse),
            ("EmbedStream", vision.EmbedResponse),
        ):
            answers = await served.stream(VISION + method, [data, data])
            codes = [kind.FromString(answer).served.status.code for answer in answers]
            assert codes == [grpc.StatusCode.INVALID_ARGUMENT.value[0]] * 2, method

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "fault",
    [
        lambda request: request.raw_input_contents.__setitem__(0, b"\0" * 11),
        lambda request: request.inputs[0].shape.append(-1),
        lambda request: setattr(request.inputs[0], "datatype", "FP33"),
        lambda request: request.inputs.append(request.inputs[0]),
        lambda request: request.raw_input_contents.append(b""),
        lambda request: request.outputs.add(name="none"),
        lambda request: request.parameters["timeout"].__setattr__("string_param", "9" * 5000),
        lambda request: request.parameters["timeout"].__setattr__("int64_param", -1),
    ],
    ids=["short", "shape", "datatype", "twice", "left", "output", "timeout text", "timeout"],
)
def test_fault_in_a_call_counts_as_a_failure_of_its_model(tmp_path: Path, fault: Any) -> None:
    async def scenario(served: InProcess) -> None:
        request = tensor_call()
        fault(request)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.rpc(OIP + "ModelInfer", request)
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert requests(served, "ModelInfer", "INVALID_ARGUMENT") == 1
        failed = served.value("nv_inference_request_failure", model="plain", version="1")
        assert failed == 1

    serve(tmp_path, scenario)


@pytest.mark.parametrize("body", [b"[" * 2000, b'{"inputs": [{"name": "x"}]}', b"{}"])
def test_fault_in_a_rest_call_counts_as_a_failure_of_its_model(tmp_path: Path, body: bytes) -> None:
    async def scenario(served: InProcess) -> None:
        assert (await served.rest("POST", "/v2/models/plain/infer", data=body))[0] == 400
        assert requests(served, "RestInfer", "INVALID_ARGUMENT") == 1

    serve(tmp_path, scenario)


def test_inference_alone_counts_as_a_request_of_a_model(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        await served.rpc(OIP + "ModelConfig", pb.ModelConfigRequest(name="plain"))
        assert served.value("nv_inference_request_success", model="plain", version="1") == 0
        await served.rpc(OIP + "ModelInfer", tensor_call())
        assert requests(served, "ModelInfer", "OK") == 1
        assert served.value("nv_inference_request_success", model="plain", version="1") == 1
        seconds = {"model": "plain", "version": "1"}
        assert served.value("convserve_request_duration_seconds_count", **seconds) == 1

    serve(tmp_path, scenario)


def test_failure_that_nobody_foresaw_is_logged_and_told_as_internal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(served: InProcess) -> None:
        served.front.catalogue.get = lambda *_: 1 / 0  # type: ignore[assignment,method-assign]
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.rpc(OIP + "ModelInfer", tensor_call())
        assert failure.value.code() == grpc.StatusCode.INTERNAL
        status, answer = await served.rest("GET", "/v2/models/plain")
        assert (status, failure.value.details()) == (500, answer["error"])
        assert "ZeroDivision" not in answer["error"]
        assert requests(served, "ModelInfer", "INTERNAL", model="") == 1

    serve(tmp_path, scenario)
    failed = [record for record in caplog.records if record.message == "call failed"]
    assert [record.__dict__["method"] for record in failed] == ["ModelInfer", "ModelMetadata"]
    assert failed[0].__dict__["request_id"] == "mine"
    assert failed[0].exc_info is not None


def test_slow_call_is_logged_with_caller_and_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = tensor_call()

    async def scenario(served: InProcess) -> None:
        await served.rpc(OIP + "ModelInfer", request)
        await served.rest("POST", "/v2/repository/index", data=b"{}")

    with caplog.at_level(logging.WARNING):
        serve(tmp_path, scenario, slow_seconds=1e-9)
    slow, index = [r.__dict__ for r in caplog.records if r.message == "slow call"]
    assert (slow["method"], slow["request_id"], slow["model"]) == ("ModelInfer", "mine", "plain")
    assert (slow["caller"], slow["code"]) == ("127.0.0.1", "OK")
    assert slow["bytes"] == request.ByteSize()
    assert (index["method"], index["caller"], index["bytes"]) == ("RepositoryIndex", "127.0.0.1", 2)


def test_closed_door_refuses_calls_of_both_wires_and_counts_them(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        served.front.close()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.rpc(OIP + "ModelInfer", tensor_call())
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert (await served.rest("GET", "/v2/models/plain"))[0] == 503
        assert requests(served, "ModelInfer", "UNAVAILABLE", model="") == 1
        assert served.front.running == 0

    serve(tmp_path, scenario)


def test_half_a_body_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(served: InProcess) -> None:
        opened, rest_of_body = asyncio.Event(), asyncio.Event()

        async def body() -> Any:
            yield b'{"inputs"'
            await rest_of_body.wait()
            yield b": []}"

        async def read(_: object, request: web.Request, *limit: int, hint: str = "") -> bytes:
            opened.set()
            return await request.read()

        monkeypatch.setattr(rest, "read_body", read)
        call = asyncio.create_task(served.rest("POST", "/v2/models/plain/infer", data=body()))
        await opened.wait()
        assert served.front.running == 0
        served.front.close()
        rest_of_body.set()
        assert (await call)[0] == 503
        assert served.front.running == 0

    serve(tmp_path, scenario)


def test_rankings_name_the_labels_of_their_output(tmp_path: Path) -> None:
    labels = {"y": ("red", "green", "blue")}

    async def scenario(served: InProcess) -> None:
        wanted = [{"name": n, "parameters": {"classification": 2}} for n in ("y", "z")]
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
        _, answer = await served.rest(
            "POST", "/v2/models/plain/infer", json={"inputs": [tensor], "outputs": wanted}
        )
        assert [output["data"] for output in answer["outputs"]] == [
            ["6.000000:2:blue", "4.000000:1:green"],
            ["9.000000:2", "6.000000:1"],
        ]

    serve(tmp_path, scenario, labels_of=labels)


def test_both_wires_answer_questions_alike(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        await served.rpc(OIP + "ModelInfer", tensor_call())
        _, over_http = await served.rest("GET", "/v2/models/plain/stats")
        answer = await served.rpc(OIP + "ModelStatistics", pb.ModelStatisticsRequest(name="plain"))
        [over_grpc] = pb.ModelStatisticsResponse.FromString(answer).model_stats
        [over_rest] = over_http["model_stats"]
        assert over_rest["inference_count"] == over_grpc.inference_count == 1
        assert over_rest["inference_stats"]["success"] == {
            "count": over_grpc.inference_stats.success.count,
            "ns": over_grpc.inference_stats.success.ns,
        }
        assert over_rest["batch_stats"][0]["batch_size"] == over_grpc.batch_stats[0].batch_size
        _, over_http = await served.rest("GET", "/v2/models/plain/config")
        answer = await served.rpc(OIP + "ModelConfig", pb.ModelConfigRequest(name="plain"))
        config = pb.ModelConfigResponse.FromString(answer).config
        assert (over_http["name"], over_http["max_batch_size"]) == (
            config.name,
            config.max_batch_size,
        )
        latency = json.loads(over_http["parameters"]["latency_ms"]["string_value"])
        assert latency == json.loads(config.parameters["latency_ms"].string_value)

    serve(tmp_path, scenario)


def test_image_calls_pass_the_same_door(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        image = vision.Image(
            raw=vision.RawImage(height=SIDE, width=SIDE, rgb=b"\x20" * (SIDE * SIDE * 3))
        )
        good = vision.ClassifyRequest(model="colours", images=[image])
        await served.rpc(VISION + "Classify", good)
        await served.stream(VISION + "ClassifyStream", [good, vision.ClassifyRequest(model="no")])
        assert requests(served, "Classify", "OK", model="colours") == 1
        assert requests(served, "ClassifyStream", "OK", model="colours") == 1
        assert requests(served, "ClassifyStream", "NOT_FOUND", model="") == 1

    serve(tmp_path, scenario)

"""Calls that are refused before they are read: by their size, and where memory is short."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.guard import CONTROL_BYTES, PROBE_BYTES
from tests.support.in_process import InProcess, in_process

pytestmark = pytest.mark.usefixtures("wire")

OIP = "/inference.GRPCInferenceService/"
VISION = "/convserve.vision.v1.VisionService/"
LARGE = bytes([0x0A, 0x00]) * CONTROL_BYTES


async def refusal(server: InProcess, method: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.rpc(method, data)
    return caught.value.code(), caught.value.details() or ""


CONTROL = [
    name
    for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    if name not in {
        "ModelInfer", "ModelStreamInfer", "ServerLive", "ServerReady", "ModelReady",
        "RepositoryModelLoad",
    }
]  # fmt: skip


def test_control_calls_beyond_their_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    async def call() -> None:
        async with in_process(tmp_path) as server:
            for method in CONTROL:
                code, text = await refusal(server, OIP + method, LARGE)
                if code is grpc.StatusCode.UNIMPLEMENTED and "Method not found" in text:
                    continue
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (method, text)
                assert f"at most {CONTROL_BYTES} bytes, got {len(LARGE)}" in text
            labels = {"method": "TraceSetting", "code": "INVALID_ARGUMENT"}
            assert server.value("convserve_control_calls_total", **labels) == 1

    asyncio.run(call())


def test_questions_of_health_beyond_their_size_are_refused(tmp_path: Path) -> None:
    check = HealthCheckRequest(service="x" * PROBE_BYTES).SerializeToString()
    ready = pb.ModelReadyRequest(name="x" * PROBE_BYTES).SerializeToString()

    async def call() -> None:
        async with in_process(tmp_path) as server:
            for method, data in (
                ("/grpc.health.v1.Health/Check", check),
                (OIP + "ModelReady", ready),
            ):
                code, text = await refusal(server, method, data)
                # The native wire refuses it before it is received.
                refusals = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
                assert code in refusals
                assert f"at most {PROBE_BYTES} bytes" in text
            with pytest.raises(grpc.aio.AioRpcError, match=f"at most {PROBE_BYTES} bytes"):
                await server.stream("/grpc.health.v1.Health/Watch", [check])

    asyncio.run(call())


@pytest.mark.parametrize("mode", ["off", "open"])
@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("RepositoryModelLoad", LARGE),
        # Entries of a map: small, distinct, and slow to read.
        ("TraceSetting", b"".join(b"\x0a\x08\x0a\x04%04d\x12\x00" % i for i in range(2000))),
        ("RepositoryIndex", b"\x50\x01" * 2000),
    ],
)
def test_control_calls_of_many_fields_are_refused_unread(
    tmp_path: Path, mode: str, method: str, data: bytes
) -> None:
    async def call() -> tuple[grpc.StatusCode, str]:
        admin = Admin(mode, explicit=True, memory=True)  # type: ignore[arg-type]
        async with in_process(tmp_path, admin=admin) as server:
            return await refusal(server, OIP + method, data)

    found, text = asyncio.run(call())
    assert found is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 1024 fields" in text


@pytest.mark.parametrize(
    ("method", "request_of", "response_of"),
    [
        ("ClassifyStream", vision.ClassifyRequest, vision.ClassifyResponse),
        ("SegmentStream", vision.SegmentRequest, vision.SegmentResponse),
        ("EmbedStream", vision.EmbedRequest, vision.EmbedResponse),
    ],
)
@pytest.mark.parametrize(("images", "size"), [(1, 10), (1, 10_000), (300, 100)])
def test_refused_calls_of_a_stream_are_answered_by_their_id(
    tmp_path: Path, method: str, request_of: type, response_of: type, images: int, size: int
) -> None:
    sent = [vision.Image(encoded=bytes(size))] * images
    request = request_of(model="m", images=sent, options=vision.CallOptions(id="seven"))

    async def call() -> None:
        async with in_process(tmp_path) as server:
            for closing in (False, True):
                server.front.closing = closing
                [data] = await server.stream(VISION + method, [request])
                served = response_of.FromString(data).served
                assert (served.id, served.model) == ("seven", "m")
                assert served.status.code != 0
            server.front.closing = False
            server.front.budget.keep("message", server.front.budget.limit)
            [data] = await server.stream(VISION + method, [request])
            served = response_of.FromString(data).served
            assert served.id == "seven"
            assert served.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]

    asyncio.run(call())


def test_refused_tensors_of_a_stream_are_answered_by_their_id(tmp_path: Path) -> None:
    request = pb.ModelInferRequest(model_name="plain", id="seven")

    async def call() -> None:
        async with in_process(tmp_path) as server:
            server.front.budget.keep("message", server.front.budget.limit)
            [data] = await server.stream(OIP + "ModelStreamInfer", [request])
            answer = pb.ModelStreamInferResponse.FromString(data)
            assert answer.infer_response.id == "seven"
            assert answer.error_message

    asyncio.run(call())

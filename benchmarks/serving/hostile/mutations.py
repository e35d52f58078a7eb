"""Random changes of valid requests of both wires, all methods, sent to a server as they are."""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.hostile.images import segment
from benchmarks.serving.hostile.session import (
    PATIENCE,
    Session,
    exchange,
    http_status,
)
from benchmarks.serving.hostile.tensors import image_document, image_request
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision
from tests.support import mutation
from tests.support.pictures import encoded, exif, smooth

_WORKERS = 16
# Seconds that a request waits which may have announced more than it has.
_UNDUE_SECONDS = 1.0
# Codes of gRPC that are no answer of the server's.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
_FAULTS = ("INTERNAL", "UNKNOWN", "500", "502", "503")

Formats = dict[str, dict[str, Any]]
_FORMATS: Formats = {
    "PNG": {},
    "JPEG": {"exif": exif(6), "quality": 60},
    "WEBP": {"exif": exif(3)},
    "BMP": {},
}


@dataclass(frozen=True)
class Sent:
    """A mutated request.

    wire, name: "grpc" and its method, or "rest" and its path.
    data: what is sent: a message, or head and body.
    due: whether it is whole in itself, so that an answer must come.
    """

    wire: str
    name: str
    data: bytes
    due: bool = True


def _files() -> list[bytes]:
    return [encoded(smooth(), kind, **options) for kind, options in _FORMATS.items()]


def _messages() -> list[tuple[str, Any]]:
    """A valid message of every method of gRPC."""
    name = "colours"
    options = vision.CallOptions(id="id", priority=1)
    options.timeout.FromMilliseconds(5000)
    raw = vision.RawImage(height=4, width=4, rgb=bytes(48))
    images = [vision.Image(encoded=file) for file in _files()] + [vision.Image(raw=raw)]
    asked: dict[str, Any] = {"images": images, "options": options}
    classify = vision.ClassifyRequest(model=name, top_k=2, threshold=0.1, **asked)
    masks = vision.SegmentRequest(
        model="regions", mask_size=1, mask_format=3, overlay=True, **asked
    )
    embed = vision.EmbedRequest(model="points", **asked)
    infer = image_request(id="id", model_version="1")
    infer.parameters["priority"].int64_param = 1
    infer.parameters["timeout"].int64_param = 5_000_000
    infer.outputs.add(name="logits").parameters["classification"].int64_param = 2
    text = oip.ModelInferRequest(model_name="identity-BYTES")
    tensor = text.inputs.add(name="in_BYTES", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"a", b"bc"])
    shared = oip.ModelInferRequest(model_name=name)
    tensor = shared.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8, 3])
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = 192
    load = oip.RepositoryModelLoadRequest(model_name="nothing")
    load.parameters["config"].string_param = "{}"
    load.parameters["file:1/model.onnx"].bytes_param = bytes(64)
    trace = oip.TraceSettingRequest(model_name=name)
    trace.settings["trace_level"].value.append("OFF")
    trace.settings["trace_rate"].value.append("1000")
    log = oip.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 0
    register = oip.SystemSharedMemoryRegisterRequest(name="region", key="/none", byte_size=192)
    inference: dict[str, list[Any]] = {
        "ModelInfer": [infer, text, shared],
        "ModelStreamInfer": [infer, text],
        "ServerLive": [oip.ServerLiveRequest()],
        "ServerReady": [oip.ServerReadyRequest()],
        "ServerMetadata": [oip.ServerMetadataRequest()],
        "ModelReady": [oip.ModelReadyRequest(name=name, version="1")],
        "ModelMetadata": [oip.ModelMetadataRequest(name=name, version="1")],
        "ModelConfig": [oip.ModelConfigRequest(name=name, version="1")],
        "ModelStatistics": [oip.ModelStatisticsRequest(name=name, version="1")],
        "RepositoryIndex": [oip.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [load],
        "RepositoryModelUnload": [oip.RepositoryModelUnloadRequest(model_name="nothing")],
        "SystemSharedMemoryStatus": [oip.SystemSharedMemoryStatusRequest(name="region")],
        "SystemSharedMemoryRegister": [register],
        "SystemSharedMemoryUnregister": [oip.SystemSharedMemoryUnregisterRequest(name="region")],
        "TraceSetting": [trace],
        "LogSettings": [log],
    }
    calls = {"Classify": classify, "Segment": masks, "Embed": embed}
    found = [
        (f"/convserve.vision.v1.VisionService/{method}{way}", message)
        for method, message in calls.items()
        for way in ("", "Stream")
    ]
    found += [
        (f"/inference.GRPCInferenceService/{method}", message)
        for method, messages in inference.items()
        for message in messages
    ]
    return found


def _documents() -> list[tuple[str, str, Any]]:
    """(method, path, document) of every call over REST."""
    texts = {"name": "in_BYTES", "datatype": "BYTES", "shape": [2], "data": ["a", "bc"]}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}]
    parameters = {"priority": 1, "timeout": 5_000_000}
    whole = image_document(id="id", outputs=outputs, parameters=parameters)
    place = {"shared_memory_region": "region", "shared_memory_byte_size": 192}
    shared = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "parameters": place}
    region = {"key": "/none", "offset": 0, "byte_size": 192}
    load = {"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}
    bodies = [
        ("/v2/models/colours/infer", whole),
        ("/v2/models/colours/versions/1/infer", image_document()),
        ("/v2/models/colours/infer", {"inputs": [shared]}),
        ("/v2/models/identity-BYTES/infer", {"inputs": [texts]}),
        ("/v2/repository/index", {"ready": True}),
        ("/v2/repository/models/nothing/load", load),
        ("/v2/repository/models/nothing/unload", {"parameters": {"unload_dependents": False}}),
        ("/v2/systemsharedmemory/region/region/register", region),
        ("/v2/systemsharedmemory/region/region/unregister", {}),
        ("/v2/trace/setting", {"trace_rate": "1000", "trace_level": ["OFF"]}),
        ("/v2/models/colours/trace/setting", {"trace_count": "-1"}),
        ("/v2/logging", {"log_verbose_level": 0, "log_info": True}),
    ]
    asked = ("", "/health/ready", "/models/colours", "/models/colours/config", "/models/stats")
    asked += ("/models/colours/versions/1/ready", "/systemsharedmemory/status", "/logging")
    return [("POST", path, body) for path, body in bodies] + [
        ("GET", f"/v2{path}", None) for path in asked
    ]


def requests(seed: int) -> Callable[[int], Sent]:
    """Gives the request of a number: the same for the same seed."""
    messages, documents, files = _messages(), _documents(), _files()

    def request(number: int) -> Sent:
        rng = random.Random(f"{seed}/{number}")
        if rng.random() < 0.15:
            # The message is whole; the picture in it is not.
            file = mutation.changed_bytes(rng, rng.choice(files))
            return Sent("grpc", "/convserve.vision.v1.VisionService/Segment", segment(file))
        if rng.random() < 0.55:
            method, message = rng.choice(messages)
            data = message.SerializeToString()
            return Sent("grpc", method, mutation.changed_message(rng, data))
        verb, path, document = rng.choice(documents)
        body = b"" if document is None else mutation.changed_json(rng, document)
        headers = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head = f"{verb} {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        if rng.random() < 0.25:
            body = b"" if document is None else json.dumps(document).encode()
            return Sent("rest", path, mutation.changed_head(rng, head) + body, due=False)
        return Sent("rest", path, head + body)

    return request


async def mutations(session: Session, *, count: int, seed: int) -> None:
    """`count` mutated requests, each of which must get a status that is no fault of the server's.
    The ones that do not, and those that are under way when the server ends, are printed in hex."""
    request = requests(seed)
    under_way: dict[int, Sent] = {}
    turns = iter(range(count))
    bad: list[str] = []
    senders = {"grpc": _grpc, "rest": _rest}

    async def work() -> None:
        for number in turns:
            if not session.server.alive:
                return
            sent = under_way[number] = request(number)
            status = await senders[sent.wire](session, sent)
            if not session.server.alive:
                return
            del under_way[number]
            session.count(status)
            lost = sent.due and status in (*_LOST, "closed", "no-answer", "no HTTP")
            if lost or status in _FAULTS:
                bad.append(f"{status}: {_told(seed, number, sent)}")

    await asyncio.gather(*(work() for _ in range(_WORKERS)))
    bad += [f"under way: {_told(seed, *item)}" for item in under_way.items()]
    if bad:
        session.harm.append(f"{len(bad)} requests without an answer of the server's")
        print("\n".join(bad[:50]), file=sys.stderr)


def _told(seed: int, number: int, sent: Sent) -> str:
    return f"--seed {seed}, request {number}, {sent.name}: {sent.data.hex()}"


async def _grpc(session: Session, sent: Sent) -> str:
    call: Callable[[], Awaitable[str]]
    if "Stream" in sent.name:
        call = session.stream(sent.name, [sent.data] * 3)
    else:
        call = session.unary(sent.name, sent.data)
    return await call()


async def _rest(session: Session, sent: Sent) -> str:
    wait = PATIENCE if sent.due else _UNDUE_SECONDS
    return http_status(await exchange(session.http, sent.data, wait=wait))

"""Valid requests of every method of both wires, to be changed.

They name the models of `tests.support.published` (colours, regions, points) and `identity-KIND`,
which gives back tensors of one datatype.
"""

from typing import Any

import numpy as np

from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision
from tests.support.pictures import encoded, exif, smooth
from tests.support.published import SIDE

_ELEMENT = np.zeros((1, SIDE, SIDE, 3), np.uint8)
_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"exif": exif(6), "quality": 60},
    "WEBP": {"exif": exif(3)},
    "BMP": {},
}


def image_request(**fields: Any) -> oip.ModelInferRequest:
    """An image as a raw tensor for `colours`."""
    request = oip.ModelInferRequest(model_name="colours", **fields)
    request.inputs.add(name="image", datatype="UINT8", shape=_ELEMENT.shape)
    request.raw_input_contents.append(_ELEMENT.tobytes())
    return request


def image_document(**fields: Any) -> dict[str, Any]:
    """The same as JSON."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(_ELEMENT.shape)}
    return {"inputs": [{**tensor, "data": _ELEMENT.reshape(-1).tolist()}], **fields}


def raw_request(kind: str, data: bytes, elements: int) -> bytes:
    """A tensor as raw bytes for the model that gives back its kind."""
    request = oip.ModelInferRequest(model_name=f"identity-{kind}")
    request.inputs.add(name=f"in_{kind}", datatype=kind, shape=[elements])
    request.raw_input_contents.append(data)
    return request.SerializeToString()


def files() -> list[bytes]:
    """A small image of each format."""
    return [encoded(smooth(), kind, **options) for kind, options in _FORMATS.items()]


def messages() -> list[tuple[str, Any]]:
    """A valid message of every method of gRPC."""
    name = "colours"
    options = vision.CallOptions(id="id", priority=1)
    options.timeout.FromMilliseconds(5000)
    raw = vision.RawImage(height=4, width=4, rgb=bytes(48))
    images = [vision.Image(encoded=file) for file in files()] + [vision.Image(raw=raw)]
    asked: dict[str, Any] = {"images": images, "options": options}
    classify = vision.ClassifyRequest(model=name, top_k=2, threshold=0.1, **asked)
    masks = vision.SegmentRequest(
        model="regions",
        mask_size=vision.MASK_SIZE_IMAGE,
        mask_format=vision.MASK_FORMAT_RAW,
        overlay=True,
        **asked,
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


def documents() -> list[tuple[str, str, Any]]:
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
    read = ["", "/health/ready", "/models/colours", "/models/colours/config", "/models/stats"]
    read += ["/models/colours/versions/1/ready", "/systemsharedmemory/status", "/logging"]
    return [("POST", path, body) for path, body in bodies] + [
        ("GET", f"/v2{path}", None) for path in read
    ]

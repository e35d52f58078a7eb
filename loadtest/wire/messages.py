"""Encodes requests, once before the load begins, and decodes answers, for every wire."""

import functools
import json
import struct
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.payloads.content import DATATYPES, Array, Payload, TensorInput
from loadtest.results import OK, UNCHECKED
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision

Task = Literal["classification", "segmentation", "embedding"]
METHODS: dict[str, str] = {
    "classification": "Classify",
    "segmentation": "Segment",
    "embedding": "Embed",
}
INFER = "ModelInfer"

# The outcome of a request: status; right labels, or UNCHECKED; batch size; microseconds to decode,
# queue, infer and postprocess. Batch size and times are 0 where the answer does not tell them.
Outcome = tuple[int, int, int, int, int, int, int]

_UNKNOWN = 2
_HIGHEST_STATUS = 16
# The largest batch that a record holds.
_LARGEST_BATCH = 65_535
_Result = vision.Classification | vision.Segmentation | vision.Embedding
_Response = vision.ClassifyResponse | vision.SegmentResponse | vision.EmbedResponse


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that the server tells.

    task: of VisionService; "" where the server names none.
    output: the first one.
    encoded_input: the BYTES input that takes image files; "" where there is none.
    """

    name: str
    version: str = ""
    task: str = ""
    inputs: tuple[TensorInput, ...] = ()
    output: str = ""
    encoded_input: str = ""


@dataclass(frozen=True)
class Request:
    """An encoded request.

    model: number of the model in the run.
    method: of VisionService or ModelInfer; the path in REST.
    rows: images, or rows of tensors.
    expected: the right label of each image; empty where it is not known.
    json_length: bytes of JSON before the binary tensors of a REST request; 0 without such.
    traceparent: its span, by W3C Trace Context; empty for none.
    """

    model: int
    method: str
    body: bytes
    rows: int
    expected: tuple[str, ...] = ()
    json_length: int = 0
    traceparent: str = ""


def encoded_input(parameters: Mapping[str, str], inputs: Sequence[TensorInput]) -> str:
    """The BYTES input that takes image files, or "": the one that the model's config names, else
    the only input where that takes BYTES."""
    named = parameters.get("encoded_image_input", "")
    if named or len(inputs) != 1:
        return named
    return inputs[0].name if inputs[0].datatype == "BYTES" else ""


def failed(status: int) -> Outcome:
    """The outcome of a request without an answer."""
    return (status, UNCHECKED, 0, 0, 0, 0, 0)


def vision_request(number: int, facts: ModelFacts, payload: Payload) -> Request:
    """A request of VisionService for the model's task."""
    images = [vision.Image(encoded=image) for image in payload.images]
    match facts.task:
        case "classification":
            top_k = 1 if payload.expected else 0
            message: vision.ClassifyRequest | vision.SegmentRequest | vision.EmbedRequest = (
                vision.ClassifyRequest(
                    model=facts.name, version=facts.version, images=images, top_k=top_k
                )
            )
        case "segmentation":
            message = vision.SegmentRequest(model=facts.name, version=facts.version, images=images)
        case _:
            message = vision.EmbedRequest(model=facts.name, version=facts.version, images=images)
    return Request(
        number, METHODS[facts.task], message.SerializeToString(), payload.rows, payload.expected
    )


def infer_request(number: int, facts: ModelFacts, payload: Payload) -> Request:
    """A ModelInfer request with raw tensors, or with image files in the input for them.

    Where the right labels are known, it asks for the best class (classification extension).
    Raises LoadTestError where the model does not take the payload.
    """
    request = oip.ModelInferRequest(model_name=facts.name, model_version=facts.version)
    for name, datatype, array in _tensors(facts, payload):
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(_raw(array))
    if payload.expected:
        request.outputs.add(name=facts.output).parameters["classification"].int64_param = 1
    return Request(number, INFER, request.SerializeToString(), payload.rows, payload.expected)


def rest_request(number: int, facts: ModelFacts, payload: Payload, *, binary: bool) -> Request:
    """The same request in REST: tensors as binary data behind the JSON where the server takes it,
    else as JSON. Raises LoadTestError."""
    inputs = []
    tail = b""
    for name, datatype, array in _tensors(facts, payload):
        declared: dict[str, object] = {
            "name": name,
            "datatype": datatype,
            "shape": list(array.shape),
        }
        if binary:
            raw = _raw(array)
            declared["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        elif array.dtype == object:
            raise LoadTestError(
                f"model {facts.name!r}: this server takes BYTES over gRPC only (it does not offer "
                "the extension binary_tensor_data)"
            )
        else:
            declared["data"] = array.reshape(-1).tolist()
        inputs.append(declared)
    document: dict[str, object] = {"inputs": inputs}
    if payload.expected:
        document["outputs"] = [{"name": facts.output, "parameters": {"classification": 1}}]
    head = json.dumps(document).encode()
    return Request(
        number,
        f"{model_path(facts.name, facts.version)}/infer",
        head + tail,
        payload.rows,
        payload.expected,
        len(head) if binary else 0,
    )


def model_path(name: str, version: str) -> str:
    """The path of a model in REST; "" is the version that the server chooses."""
    path = f"/v2/models/{urllib.parse.quote(name, safe='')}"
    return f"{path}/versions/{urllib.parse.quote(version, safe='')}" if version else path


def _tensors(facts: ModelFacts, payload: Payload) -> list[tuple[str, str, Array]]:
    """Name, datatype and array of every input."""
    if payload.images:
        if not facts.encoded_input:
            raise LoadTestError(
                f"model {facts.name!r} has no input for image files (its inputs: "
                f"{', '.join(spec.name for spec in facts.inputs) or 'none'}): send tensors "
                "(--npy, or none of the payload options for random ones)"
            )
        files = np.array(payload.images, dtype=object)
        two = any(s.name == facts.encoded_input and len(s.shape) == 2 for s in facts.inputs)
        return [(facts.encoded_input, "BYTES", files.reshape(-1, 1) if two else files)]
    declared = {spec.name: spec.datatype for spec in facts.inputs}
    tensors = []
    for name, array in payload.tensors.items():
        wanted = declared.get(name) or _datatype(array)
        if np.dtype(DATATYPES.get(wanted, np.void)) != array.dtype:
            raise LoadTestError(
                f"input {name!r} of model {facts.name!r}: expected {wanted}, got {array.dtype}"
            )
        tensors.append((name, wanted, array))
    return tensors


def _datatype(array: Array) -> str:
    for name, dtype in DATATYPES.items():
        if np.dtype(dtype) == array.dtype:
            return name
    raise LoadTestError(f"NumPy type {array.dtype} is no type of the protocol")


def _raw(array: Array) -> bytes:
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(x)) + x for x in array.reshape(-1))
    return np.ascontiguousarray(array).tobytes()


@functools.lru_cache(maxsize=1024)
def vision_options(priority: int, timeout: float) -> bytes:
    """Bytes that give an encoded request of VisionService, in front of them, its options.

    Protobuf merges messages that are laid end to end. The timeout is in seconds; 0 is none, as it
    is for the priority.
    """
    message = vision.ClassifyRequest()
    if priority:
        message.options.priority = priority
    if timeout:
        message.options.timeout.FromNanoseconds(int(timeout * 1e9))
    return message.SerializeToString()


def trace_options(traceparent: str) -> bytes:
    """Bytes that do the same for the span of a request of VisionService."""
    return vision.ClassifyRequest(
        options=vision.CallOptions(traceparent=traceparent)
    ).SerializeToString()


@functools.lru_cache(maxsize=1024)
def infer_options(priority: int, timeout: float) -> bytes:
    """Bytes that do the same for a ModelInferRequest."""
    message = oip.ModelInferRequest()
    if priority:
        message.parameters["priority"].uint64_param = priority
    if timeout:
        message.parameters["timeout"].int64_param = int(timeout * 1e6)
    return message.SerializeToString()


def read_classified(content: bytes, expected: Sequence[str]) -> Outcome:
    """Outcome of a ClassifyResponse; the best label of each image is compared with `expected`."""
    response = vision.ClassifyResponse.FromString(content)
    right = UNCHECKED
    if expected and len(response.results) == len(expected):
        right = sum(
            bool(result.labels) and result.labels[0].name == name
            for result, name in zip(response.results, expected, strict=True)
        )
    return _vision_answer(response, right)


def read_segmented(content: bytes, expected: Sequence[str]) -> Outcome:
    """Outcome of a SegmentResponse, which has no label to compare."""
    return _vision_answer(vision.SegmentResponse.FromString(content), UNCHECKED)


def read_embedded(content: bytes, expected: Sequence[str]) -> Outcome:
    """Outcome of an EmbedResponse, which has no label to compare."""
    return _vision_answer(vision.EmbedResponse.FromString(content), UNCHECKED)


def _vision_answer(response: _Response, right: int) -> Outcome:
    served = response.served
    if served.status.code != OK:
        return failed(_known(served.status.code))
    results: Sequence[_Result] = response.results
    if len(results) == 1:
        result = results[0]
        timing = result.timing
        return (
            _known(result.status.code), right, min(timing.batch_size, _LARGEST_BATCH),
            timing.decode_us, timing.queue_us, timing.infer_us, timing.postprocess_us,
        )  # fmt: skip
    return _of_several(results, right)


def _known(status: int) -> int:
    """A number of a server, as one that gRPC has and a record holds."""
    return status if OK <= status <= _HIGHEST_STATUS else _UNKNOWN


def _of_several(results: Sequence[_Result], right: int) -> Outcome:
    """Outcome of several images: the first status that is not OK, and the longest times."""
    if not results:
        return failed(_UNKNOWN)
    timings = [result.timing for result in results]
    return (
        next((_known(r.status.code) for r in results if r.status.code != OK), OK),
        right,
        min(max(t.batch_size for t in timings), _LARGEST_BATCH),
        max(t.decode_us for t in timings),
        max(t.queue_us for t in timings),
        max(t.infer_us for t in timings),
        max(t.postprocess_us for t in timings),
    )


_PLAIN: Outcome = (OK, UNCHECKED, 0, 0, 0, 0, 0)


def read_inferred(content: bytes, expected: Sequence[str]) -> Outcome:
    """Outcome of a ModelInferResponse, which is not decoded where no label is compared."""
    if not expected:
        return _PLAIN
    return _right_classes(oip.ModelInferResponse.FromString(content), expected)


def read_streamed(content: bytes, expected: Sequence[str]) -> Outcome:
    """Outcome of a ModelStreamInferResponse, whose errors have no code."""
    response = oip.ModelStreamInferResponse.FromString(content)
    if response.error_message:
        return failed(_UNKNOWN)
    return _right_classes(response.infer_response, expected) if expected else _PLAIN


def _right_classes(response: oip.ModelInferResponse, expected: Sequence[str]) -> Outcome:
    """Compares the best classes, BYTES "score:index:label", one a row."""
    raw = response.raw_output_contents
    if not raw and not response.outputs:
        return failed(_UNKNOWN)
    found = _split(raw[0]) if raw else list(response.outputs[0].contents.bytes_contents)
    return (OK, count_right(found, expected), 0, 0, 0, 0, 0)


def count_right(found: Sequence[bytes], expected: Sequence[str]) -> int:
    """Number of rows whose best class ("score:index:label") is the expected one."""
    names = [text.decode(errors="replace").split(":", 2)[-1] for text in found]
    return sum(a == b for a, b in zip(names, expected, strict=False))


def _split(raw: bytes) -> list[bytes]:
    elements = []
    position = 0
    while position + 4 <= len(raw):
        end = position + 4 + int.from_bytes(raw[position : position + 4], "little")
        elements.append(raw[position + 4 : end])
        position = end
    return elements


Reader = Callable[[bytes, Sequence[str]], Outcome]
READERS: dict[str, Reader] = {
    "Classify": read_classified,
    "Segment": read_segmented,
    "Embed": read_embedded,
    INFER: read_inferred,
}

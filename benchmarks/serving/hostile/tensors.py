"""Attacks by tensors, JSON and compressed bodies: much to decode, to hold or to answer."""

import gzip
import json
import zlib
from typing import Any

import grpc
import numpy as np

from benchmarks.serving.hostile.session import INFERENCE, Session
from protos.gen import grpc_service_pb2 as oip
from serving.server.config import ServerConfig
from tests.support.valid_requests import image_document, image_request, raw_request

_MIB = 1 << 20
# MiB of the largest messages: just below the server's default limit of 32.
LARGE = 31
# Bytes of JSON that the server takes by default.
_JSON_BYTES = ServerConfig.model_fields["max_json_mib"].default * _MIB
_IMAGE = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":['
_TEXTS = b'{"inputs":[{"name":"in_BYTES","datatype":"BYTES","shape":[1],"data":['
# Outputs that one request asks for.
_OUTPUTS = 20_000
_INFER = INFERENCE + "ModelInfer"
_COLOURS = "/v2/models/colours/infer"
_IDENTITY = "/v2/models/identity-{}/infer"
# Datatypes of the models that give back what they get.
KINDS = ("UINT8", "FP32", "INT64", "BYTES")


async def outputs_20000(session: Session) -> None:
    """One output asked for 20,000 times, over both wires."""
    request = image_request()
    for _ in range(_OUTPUTS):
        request.outputs.add(name="logits")
    document = json.dumps(image_document(outputs=[{"name": "logits"}] * _OUTPUTS)).encode()
    grpc_call = session.unary(_INFER, request.SerializeToString())
    await session.repeat(grpc_call, session.rest("POST", _COLOURS, document))


async def outputs_by_class(session: Session) -> None:
    """The same with the best classes of each, a million a row."""
    request = image_request()
    for _ in range(_OUTPUTS):
        output = request.outputs.add(name="logits")
        output.parameters["classification"].int64_param = 1_000_000
    await session.repeat(session.unary(_INFER, request.SerializeToString()))


async def inputs_many(session: Session) -> None:
    """50,000 inputs, 100,000 parameters, and both with long names."""
    many = image_request()
    for number in range(50_000):
        many.inputs.add(name=f"i{number}", datatype="UINT8", shape=[1])
    said = image_request()
    for number in range(100_000):
        said.parameters[f"p{number}"].int64_param = number
    long = image_request(id="i" * (8 * _MIB))
    long.inputs.add(name="n" * (8 * _MIB), datatype="UINT8", shape=[1])
    calls = [session.unary(_INFER, r.SerializeToString()) for r in (many, said, long)]
    tensors = [
        {"name": f"i{n}", "datatype": "UINT8", "shape": [1], "data": [0]} for n in range(50_000)
    ]
    body = json.dumps({"inputs": tensors}).encode()
    await session.repeat(*calls, session.rest("POST", _COLOURS, body))


async def bytes_empties(session: Session) -> None:
    """31 MiB of empty elements of BYTES: eight million, for a tensor of one and of all."""
    data = bytes(LARGE * _MIB)
    calls = [
        session.unary(_INFER, raw_request("BYTES", data, elements))
        for elements in (1, len(data) // 4)
    ]
    head = {"name": "in_BYTES", "datatype": "BYTES", "shape": [len(data) // 4]}
    parameters = {"binary_data_size": len(data)}
    document = json.dumps({"inputs": [{**head, "parameters": parameters}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(document))}
    await session.repeat(
        *calls, session.rest("POST", _IDENTITY.format("BYTES"), document + data, headers=length)
    )


async def contents(session: Session) -> None:
    """Elements in the message itself: 30 million numbers, 15 million texts, and a million
    fields that the protocol does not know."""
    calls = []
    for kind, field, count, size in (
        ("FP32", "fp32_contents", 8_000_000, 4),
        ("INT64", "int64_contents", 30_000_000, 1),
        ("BYTES", "bytes_contents", 15_000_000, 0),
    ):
        # By hand: the same bytes as the message's own, sooner.
        tag = bytes([oip.InferTensorContents.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
        elements = (
            tag + _varint(count * size) + bytes(count * size) if size else (tag + b"\0") * count
        )
        tensor = oip.ModelInferRequest.InferInputTensor(name=f"in_{kind}", datatype=kind, shape=[1])
        body = _field(5, tensor.SerializeToString() + _field(5, elements))
        head = oip.ModelInferRequest(model_name=f"identity-{kind}")
        calls.append(session.unary(_INFER, head.SerializeToString() + body))
    unknown = image_request().SerializeToString() + b"\xf8\x07\x01" * 1_000_000
    calls.append(session.unary(_INFER, unknown))
    await session.repeat(*calls, workers=2)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


async def large_messages(session: Session) -> None:
    """16 calls of 31 MiB at a time over each wire, more than all calls together may hold."""
    size = LARGE * _MIB
    message = raw_request("UINT8", bytes(size), size)
    head = {"name": "in_UINT8", "datatype": "UINT8", "shape": [size]}
    tensor = {**head, "parameters": {"binary_data_size": size}}
    document = json.dumps({"inputs": [tensor]}).encode()
    length = {"Inference-Header-Content-Length": str(len(document))}
    rest = session.rest("POST", _IDENTITY.format("UINT8"), document + bytes(size), headers=length)
    await session.repeat(session.unary(_INFER, message), rest, workers=16)


async def large_answers(session: Session) -> None:
    """A million numbers, answered as JSON: 5 MB in, 25 out, compressed where asked for."""
    array = np.full(1_200_000, 0.123456789, np.float32)
    tensor: dict[str, Any] = {"name": "in_FP32", "datatype": "FP32", "shape": [array.size]}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    document = json.dumps({"inputs": [tensor]}).encode()
    options = {"Inference-Header-Content-Length": str(len(document))}
    body = document + array.tobytes()
    plain = session.rest("POST", _IDENTITY.format("FP32"), body, headers=options)
    packed = session.rest(
        "POST", _IDENTITY.format("FP32"), body, headers={**options, "Accept-Encoding": "gzip"}
    )
    await session.repeat(plain, packed)


async def gzip_bombs(session: Session) -> None:
    """Bodies of 1,000 to 1: 31 MiB and 512 MiB of blanks, zeros and JSON, in gzip and deflate, in
    one stream and in many; and the same as a compressed message of gRPC."""
    calls = []
    blanks = {mib: _packed(b" ", mib) for mib in (LARGE, 512)}
    for packed in blanks.values():
        calls.append(session.rest("POST", _COLOURS, packed, headers={"Content-Encoding": "gzip"}))
        bare = packed[10:-8]  # gzip's head and checksum around the same stream
        calls.append(session.rest("POST", _COLOURS, bare, headers={"Content-Encoding": "deflate"}))
        others = ("/v2/repository/index", "/v2/logging")
        calls += [
            session.rest("POST", path, packed, headers={"Content-Encoding": "gzip"})
            for path in others
        ]
    streams = gzip.compress(b"") * 100_000
    calls.append(session.rest("POST", _COLOURS, streams, headers={"Content-Encoding": "gzip"}))
    twice = gzip.compress(blanks[512])
    calls.append(session.rest("POST", _COLOURS, twice, headers={"Content-Encoding": "gzip, gzip"}))
    message = raw_request("UINT8", bytes(LARGE * _MIB), LARGE * _MIB)
    calls.append(session.unary(_INFER, message, compression=grpc.Compression.Gzip))
    large = raw_request("UINT8", bytes(96 * _MIB), 96 * _MIB)
    calls.append(session.unary(_INFER, large, compression=grpc.Compression.Gzip))
    await session.repeat(*calls, workers=8)


def _packed(byte: bytes, mib: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(byte * _MIB) for _ in range(mib)]
    return b"".join([*parts, packer.flush()])


async def json_wide(session: Session) -> None:
    """Numbers, one-letter texts, empty lists and objects, and keys: 31 MiB of each, and just below
    what JSON may have."""
    calls = []
    for size in (LARGE * _MIB, _JSON_BYTES):
        numbers = _wide(size, _IMAGE, b"1.5,", b"0]}]}")
        nested = _wide(size, _IMAGE, b"[[]],", b"0]}]}")
        objects = _wide(size, b'{"inputs":[', b"{},", b"{}]}")
        keys = _wide(size, b"{", b'"a":0,', b'"b":0}')
        texts = _wide(size, _TEXTS, b'"",', b'""]}]}')
        bodies = (numbers, nested, objects, keys)
        calls += [session.rest("POST", _COLOURS, body) for body in bodies]
        calls.append(session.rest("POST", _IDENTITY.format("BYTES"), texts))
    await session.repeat(*calls)


async def json_wide_packed(session: Session) -> None:
    """The same numbers, out of 40 KB of gzip."""
    calls = []
    for size in (LARGE * _MIB, _JSON_BYTES):
        packed = gzip.compress(_wide(size, _IMAGE, b"1.5,", b"0]}]}"))
        coding = {"Content-Encoding": "gzip"}
        calls.append(session.rest("POST", _COLOURS, packed, headers=coding))
    await session.repeat(*calls)


def _wide(size: int, begin: bytes, item: bytes, end: bytes) -> bytes:
    """A document of `size` bytes at most."""
    return begin + item * ((size - len(begin) - len(end)) // len(item)) + end


async def json_deep(session: Session) -> None:
    """Lists and objects in one another, from 1,000 to five million deep, on every route."""
    paths = (
        _COLOURS,
        "/v2/repository/index",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/repository/models/colours/load",
        "/v2/systemsharedmemory/region/r/register",
    )
    tensor = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":'
    calls = []
    for depth in (1_000, 100_000, 5_000_000):
        bodies = [b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth]
        bodies.append(tensor + b"[" * depth + b"]" * depth + b"}]}")
        for path in paths:
            calls += [session.rest("POST", path, body) for body in bodies]
    await session.repeat(*calls)


async def shapes(session: Session) -> None:
    """Shapes that no array has: 2^62 elements, a million dimensions, negative, of text."""
    calls = []
    for shape in ([1 << 62, 4], [1] * 1_000_000, [-1, 8, 8, 3], [0] * 64, [(1 << 63) - 1]):
        request = oip.ModelInferRequest(model_name="colours")
        request.inputs.add(name="image", datatype="UINT8", shape=shape)
        request.raw_input_contents.append(b"")
        calls.append(session.unary(_INFER, request.SerializeToString()))
        tensor = {"name": "image", "datatype": "UINT8", "shape": shape, "data": []}
        body = json.dumps({"inputs": [tensor]}).encode()
        calls.append(session.rest("POST", _COLOURS, body))
    for text in ('["1"]', "[1e400]", "[1.5]", "[true]", "1", "[" + "9" * 5000 + "]"):
        body = b'{"inputs":[{"name":"image","datatype":"UINT8","data":[],"shape":%s}]}'
        calls.append(session.rest("POST", _COLOURS, body % text.encode()))
    await session.repeat(*calls)


ATTACKS = (
    outputs_20000,
    outputs_by_class,
    inputs_many,
    bytes_empties,
    contents,
    large_messages,
    large_answers,
    gzip_bombs,
    json_wide,
    json_wide_packed,
    json_deep,
    shapes,
)

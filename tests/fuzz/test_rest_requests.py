"""Whatever bytes come as a body over REST are a request of the shapes that it states, or bad
input."""

import asyncio
import gzip
import json
import math
import zlib

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.errors import InvalidInput, RequestTooLarge, ServingError
from serving.base.tensor import NUMPY_TYPES
from serving.server.endpoints.guard import parsed, parsed_in_turns
from serving.server.endpoints.oip import InferRequest
from serving.server.http.codec import decode_request
from serving.server.http.compression import Inflater, accepted_coding
from serving.server.http.control import (
    decode_override,
    decode_registration,
    decode_trace_settings,
)
from serving.server.http.json_text import parse_object
from serving.server.http.vision import read_parameters
from tests.fuzz.changed import changed, check_foreseen
from tests.fuzz.decoding import MAX_MESSAGE, facts_of, new_call, new_server
from tests.support import valid_requests
from tests.support.mutation import EXTREMES, changed_bytes, changed_json

DOCUMENTS = [document for _, _, document in valid_requests.documents() if document is not None]
BINARY = json.dumps(
    {
        "inputs": [
            {
                "name": "in_BYTES",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"binary_data_size": 10},
            }
        ]
    }
).encode()
LIMIT = 1 << 20
LENGTHS = st.one_of(
    st.none(),
    st.sampled_from([str(len(BINARY)), "0", "", " 5", "+5", "1e3", "9" * 5000, "٣", "0x10"]),
    st.integers().map(str),
)


SERVER = new_server()


def read(body: bytes, length: str | None) -> InferRequest:
    """As the server reads it for the model that takes its datatype."""
    texts = b"BYTES" in body
    facts = facts_of("identity-BYTES" if texts else "colours")
    decoding = decode_request(body, length, new_call(), facts, SERVER, MAX_MESSAGE)
    return asyncio.run(parsed_in_turns(decoding))


def infer(data: str) -> bytes:
    """A body whose one tensor has this text as its elements."""
    tensor = '{"name":"image","datatype":"UINT8","shape":[1,8,8,3],"data":%s}'
    return ('{"inputs":[' + tensor % data + "]}").encode()


def deep(size: int) -> str:
    return "[" * size + "]" * size


@settings(settings.get_profile("fuzz"))
@given(changed(DOCUMENTS, changed_json), st.none())
@example(infer(deep(100_000)), None)
@example(b"[" * 200_000, None)
@example(b'{"a":' * 100_000, None)
@example(infer("[" + "1.5," * 50_000 + "0]"), None)
@example(infer("[" + "[[]]," * 50_000 + "0]"), None)
@example(infer("[" + "9" * 5000 + "]"), None)
@example(infer("[1e400, NaN, -Infinity]"), None)
@example(infer('["\\ud800"]'), None)
@example(b" " * 250_000, None)
@example(b'{"inputs":[' + b"{}," * 50_000 + b"{}]}", None)
@example(b'{"parameters":{"timeout":' + b"9" * 400 + b"}}", None)
@example(BINARY + bytes(10), str(len(BINARY)))
def test_a_body_is_a_request_of_its_shapes_or_refused(body: bytes, length: str | None) -> None:
    try:
        told = body if length is None else body[: int(length)]
        document = json.loads(told) if told.strip() else {}
    except (ValueError, RecursionError):
        document = None
    try:
        request = read(body, length)
    except ServingError as error:
        check_foreseen(error)
        return
    assert document is not None, "what is no JSON was read"
    for tensor, (name, array) in zip(
        document.get("inputs") or (), request.inputs.items(), strict=True
    ):
        assert name == tensor["name"]
        assert list(array.shape) == tensor["shape"]
        assert array.size == math.prod(tensor["shape"])
        if tensor["datatype"] == "BYTES":
            assert all(isinstance(element, bytes) for element in array.reshape(-1))
        else:
            assert array.dtype == NUMPY_TYPES[tensor["datatype"]]
            if tensor.get("data") is not None:
                given = np.array(tensor["data"]).reshape(-1).astype(array.dtype)
                assert array.tobytes() == given.tobytes()


@settings(settings.get_profile("fuzz"))
@given(changed([BINARY + b"\1\0\0\0a\1\0\0\0b"], changed_bytes), LENGTHS)
@example(BINARY + bytes(60_000), str(len(BINARY)))
@example(BINARY + b"\xff" * 10, str(len(BINARY)))
def test_a_binary_body_is_read_or_refused(body: bytes, length: str | None) -> None:
    test_a_body_is_a_request_of_its_shapes_or_refused.hypothesis.inner_test(body, length)


@settings(settings.get_profile("fuzz"))
@given(changed(DOCUMENTS, changed_json))
@example(json.dumps({"key": "a\0b", "offset": -1, "byte_size": 1 << 70}).encode())
@example(json.dumps({"trace_rate": "--5", "trace_count": "9" * 5000}).encode())
@example(json.dumps({"parameters": {"file:1/" + "a" * 300: "=", "config": 1}}).encode())
@example(b'{"a":' * 100_000)
def test_other_bodies_are_plain_values_or_refused(body: bytes) -> None:
    for decode in (parse_object, decode_registration, decode_override, decode_trace_settings):
        try:
            found = parsed(decode, body)
        except InvalidInput as error:
            check_foreseen(error)
        else:
            assert isinstance(found, dict | tuple)


@settings(settings.get_profile("fuzz"))
@given(
    changed(
        [gzip.compress(b"text" * 100), zlib.compress(b"text" * 100), gzip.compress(bytes(1000))],
        changed_bytes,
    ),
    st.sampled_from(["gzip", "x-gzip", "deflate", " GZIP ", "br", "gzip, gzip", ""]),
)
@example(gzip.compress(bytes(50 << 20)), "gzip")
@example(zlib.compress(bytes(50 << 20)), "deflate")
@example(gzip.compress(b"") * 10_000, "gzip")
@example(gzip.compress(gzip.compress(bytes(50 << 20))), "gzip, gzip")
def test_a_compressed_body_is_whole_and_within_the_limit_or_refused(
    body: bytes, coding: str
) -> None:
    try:
        found = parsed(inflated, body, coding)
    except (InvalidInput, RequestTooLarge):
        return
    assert len(found) <= max(LIMIT + (1 << 17), len(body))


def inflated(body: bytes, coding: str) -> bytes:
    """A body that arrives in two parts, up to the piece that passes LIMIT."""
    inflater = Inflater.of(coding)
    if inflater is None:
        return body
    whole = b""
    for part in (body[: len(body) // 2], body[len(body) // 2 :]):
        for piece in inflater.inflate(part):
            whole += piece
            if len(whole) > LIMIT:
                return whole
    inflater.close()
    return whole


@settings(settings.get_profile("fuzz"))
@given(st.lists(st.text(max_size=200), max_size=3), st.sampled_from(EXTREMES))
@example(["gzip;q=" + "9" * 5000, "*;q=nan"], 0)
@example(["," * 10_000 + "gzip;" * 1000], 0)
def test_what_a_caller_accepts_never_fails(headers: list[str], weight: int) -> None:
    accepted_coding([*headers, f"gzip;q={weight}"])


NAMES = ("top_k", "threshold", "mask_size", "mask_format")
GIVEN = st.one_of(
    st.text(), st.integers().map(str), st.floats().map(str), st.sampled_from(["image", "raw"])
)


@settings(settings.get_profile("fuzz"))
@given(st.dictionaries(st.one_of(st.sampled_from(["priority", *NAMES]), st.text()), GIVEN))
@example({"top_k": "9" * 5000})
@example({"top_k": "٣"})
@example({"threshold": "1_0"})
@example({"x" * 100_000: ""})
def test_parameters_of_a_url_are_what_they_say_or_refused(query: dict[str, str]) -> None:
    try:
        asked = parsed(read_parameters, query, NAMES)
    except InvalidInput as error:
        check_foreseen(error)
        return
    assert set(query) <= {"priority", *NAMES}
    assert asked.top_k == int(query.get("top_k", 5))
    assert asked.priority == int(query.get("priority", 0))
    assert asked.at_model == (query.get("mask_size") == "model")
    assert asked.as_png == (query.get("mask_format") == "palette_png")

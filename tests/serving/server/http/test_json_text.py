"""JSON is bounded before it is parsed, and long lists of numbers are read as short ones are."""

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.base.errors import InvalidInput
from serving.base.tensor import Array
from serving.base.turns import Turns
from serving.server.http import codec, json_text
from serving.server.http.json_text import Span, parse_object, read_document, read_numbers, to_array


def read(text: str | bytes, shape: list[int], datatype: str = "FP32") -> Array:
    """The numbers of a list that stands alone in a body."""
    body = text if isinstance(text, bytes) else text.encode()
    span = Span(0, len(body))

    async def run() -> Array:
        return await read_numbers(body, span, "x", datatype, tuple(shape), "inputs[0]", Turns())

    return asyncio.run(run())


def document(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """A body without its long lists, and the lists."""
    found = asyncio.run(read_document(body, Turns()))
    return found.members, [body[span.start : span.end] for span in found.lists.values()]


def taken_out(data: list[Any], **members: Any) -> tuple[dict[str, Any], list[bytes]]:
    return document(json.dumps({"inputs": [{"name": "x", "data": data, **members}]}).encode())


NUMBERS = st.integers(-(2**31), 2**31) | st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(NUMBERS, min_size=1, max_size=60),
    parts=st.sampled_from([(1,), (1, 1), (2, 3), (3, 2), (4,), (1, 5, 1)]),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", ":"), (",  ", " : ")]),
    slice_bytes=st.integers(40, 80),
)
def test_slices_are_read_as_the_whole_list_is(
    values: list[Any], parts: tuple[int, ...], separators: tuple[str, str], slice_bytes: int
) -> None:
    shape = (len(values), *parts)
    flat = (values * math.prod(parts))[: math.prod(shape)]
    nested = np.array(flat, object).reshape(shape).tolist()
    before = json_text._SLICE_BYTES
    json_text._SLICE_BYTES = slice_bytes
    try:
        for data in (flat, nested):
            text = json.dumps(data, separators=separators)
            found = read(text, list(shape), "FP64")
            assert found.tolist() == np.array(flat, np.float64).reshape(shape).tolist()
    finally:
        json_text._SLICE_BYTES = before


WRONG = [
    "[1 2,3]", "[1,2", "1,2]", "[1,,2]", "[,1]", "[1,]", "[1][2]", "[[1],2]", "[1,[2]]",
    "[[1,2],[3]]", "[[1][2]]", "[1[2]]", "[[1]2]", "[[1],[2]", "[[1]],[2]", "[1]]", "[]", "[[]]",
    "[1,[],2]", "[null,1]", "[1,NULL]", "[+1,2]", "[01,2]", "[0x1,2]", "[1.,2]", "[.5,2]", "[1e,2]",
    "[-,1]", "[nan,1]", "[1;2]", "[1,\v2]", "[1,\f2]", "[1,\xa02]", "[1_0,2]", "[{},1]", "",
    "[" * 100 + "1" + "]" * 100, "[" * 3000 + "1" + "]" * 3000, "]1,2[", "[1,2]]", "[[1,2]",
]  # fmt: skip


@pytest.mark.parametrize("slice_bytes", [1, 3, 16 << 10])
@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:20])
def test_text_that_is_no_list_of_numbers_is_refused(
    text: str, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "_SLICE_BYTES", slice_bytes)
    for shape in ([2], [1, 2], [1], [0], [3]):
        with pytest.raises(InvalidInput):
            read(text, shape)


@pytest.mark.parametrize(
    ("text", "datatype"),
    [("[1,300]", "UINT8"), ("[1,-1]", "UINT32"), ("[1,1.5]", "INT32"), ("[1,1e39]", "FP32"),
     ("[1,1e999]", "FP64"), ("[1,-1e999]", "FP32"), ("[NaN,1]", "INT8"), ("[1,2]", "BOOL"),
     ("[1," + "9" * 400 + "]", "FP64"), ("[1," + "9" * 5000 + "]", "INT64")],
)  # fmt: skip
def test_number_that_does_not_fit_is_refused_long_or_short(text: str, datatype: str) -> None:
    with pytest.raises(InvalidInput):
        read(text, [2], datatype)
    with pytest.raises(InvalidInput):
        to_array(parse_object(b'{"data": ' + text.encode() + b"}")["data"], datatype, "inputs[0]")


def test_nan_and_infinity_are_read_as_triton_writes_them() -> None:
    text = "[NaN, Infinity, -Infinity, 1]"
    short = to_array(parse_object(f'{{"data": {text}}}'.encode())["data"], "FP32", "inputs[0]")
    for found in (short, read(text, [4])):
        assert np.array_equal(found, [np.nan, np.inf, -np.inf, 1], equal_nan=True)


@pytest.mark.parametrize(("count", "got"), [(1, "1"), (3, "more"), (0, "0")])
def test_another_number_of_elements_is_refused(count: int, got: str) -> None:
    with pytest.raises(InvalidInput, match=f"FP32 \\[2\\] takes 2 elements, got {got}|expected"):
        read(json.dumps([1] * count), [2])


def test_shape_far_beyond_the_text_takes_no_memory() -> None:
    with pytest.raises(InvalidInput, match="got fewer"):
        read("[1, 2]", [1 << 40])


def test_long_lists_of_numbers_are_taken_out() -> None:
    numbers = list(range(8000))
    members, lists = taken_out(numbers, shape=[8000])
    assert [json.loads(text) for text in lists] == [numbers]
    assert members["inputs"][0]["shape"] == [8000]
    assert members["inputs"][0]["data"] not in ("", [])


@pytest.mark.parametrize(
    "members",
    [
        {"note": '"data": [1, 2, 3]'},
        {"note": '\\"data\\": [' + "1, " * 3000 + "1]"},
        {'a"data': [1] * 3000},
        {"parameters": {"data": [1] * 3000}},
        {"note": "]" * 3000 + '"}'},
    ],
    ids=lambda members: str(members)[:30],
)
def test_text_that_looks_like_a_list_stays_what_it_is(members: dict[str, Any]) -> None:
    document_, lists = taken_out(list(range(8000)), **members)
    found = document_["inputs"][0]
    if members.get("parameters") is None and 'a"data' not in members:
        assert len(lists) == 1
        assert found["note"] == members["note"]
    assert lists[0] == json.dumps(list(range(8000))).encode() or len(lists) == 2


def test_name_that_stands_for_a_list_cannot_be_guessed() -> None:
    members, _ = taken_out(list(range(8000)), other="data")
    name = members["inputs"][0]["data"]
    assert len(name) > 32
    assert json_text._TAKEN_OUT in name


@pytest.mark.parametrize(
    "body",
    [
        b" " * (2 << 20),
        b'{"a": "' + b"x" * (2 << 20) + b'"}',
        b'{"a": [' + b"[]," * 20_000 + b"[]]}",
        b'{"a": [' + b'"",' * 20_000 + b'""]}',
        b'{"a": "' + b"\\n" * 40_000 + b'"}',
        b'{"a": [' + b"0," * 600_000 + b"0]}",
        b"[" * 50_000,
        b'{"a":' * 20_000,
        b'"data":[' * 100_000,
        b'{"inputs": [' + b'{"data": [' * 50_000,
        (b'{"data": [' + b"1," * 600 + b"1]},") * 500,
    ],
    ids=lambda body: body[:14].decode(),
)
def test_document_that_is_long_without_its_numbers_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="body"):
        document(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 2}', b'{"a": null, "a": null}', b'{"b": {"a": 1, "a": 1}}',
        b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b'{"a": "\\udc00\\ud800"}',
        b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b'{"a": "\0"}',
        b"[" * 10_000, b'{"a":' * 3000, b"[]", b"1", b'"a"', b"nul", b"{}{}",
        b'{"a": 1' + b"0" * 5000,
    ],
    ids=lambda body: str(body)[:30],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="body"):
        parse_object(body)
    padded = body.replace(b"{", b'{"p": "' + b"x" * (20 << 10) + b'", ', 1)
    if padded != body:
        with pytest.raises(InvalidInput, match="body"):
            document(padded)


def test_characters_beyond_sixteen_bits_are_text() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud800"}') == {"a": "😀", "b": "\\ud800"}


def test_long_list_of_numbers_is_no_text() -> None:
    tensor = codec._Input("inputs[0]", "x", "BYTES", (600,), None, None, None)
    unused: Any = None
    with pytest.raises(InvalidInput, match=r"^inputs\[0\].data: expected BYTES .* of numbers$"):
        asyncio.run(codec._read(tensor, Span(0, 1200), b"", unused, unused))

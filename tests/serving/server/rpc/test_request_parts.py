"""A request taken apart is what protobuf reads of it, and bytes that are none are refused."""

import random
import tracemalloc

import pytest
from google.protobuf.message import DecodeError

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.server.rpc.request_parts import RequestParts, read_request


def request() -> pb.ModelInferRequest:
    """One with a value in each field."""
    message = pb.ModelInferRequest(model_name="m", model_version="3", id="é 7")
    message.parameters["priority"].int64_param = 2
    for name, data in (("a", bytes(range(200))), ("b", b""), ("c", bytes(70_000))):
        message.inputs.add(name=name, datatype="UINT8", shape=[len(data)])
        message.raw_input_contents.append(data)
    message.outputs.add(name="y")
    return message


def put_together(read: RequestParts) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest.FromString(read.head)
    assert not message.id
    assert not message.raw_input_contents
    message.id = read.id
    message.raw_input_contents.extend(bytes(raw) for raw in read.raws)
    return message


def test_parts_are_what_protobuf_reads() -> None:
    assert put_together(read_request(request().SerializeToString())) == request()


def test_tensors_are_views_of_what_came() -> None:
    data = request().SerializeToString()
    assert all(raw.obj is data for raw in read_request(data).raws)


def test_head_is_the_same_whatever_id_and_tensors() -> None:
    other = request()
    other.id = "8"
    other.raw_input_contents[0] = bytes(200)
    read = [read_request(message.SerializeToString()) for message in (request(), other)]
    assert read[0].head == read[1].head
    assert read[0].id != read[1].id


def test_message_of_a_length_that_came_before_is_read_anew() -> None:
    def message(name: str, pixels: bytes, number: str = "") -> bytes:
        plain = pb.ModelInferRequest(model_name=name, id=number)
        plain.inputs.add(name="x", datatype="UINT8", shape=[5])
        return plain.SerializeToString() + raw(pixels)

    def raw(pixels: bytes) -> bytes:
        return pb.ModelInferRequest(raw_input_contents=[pixels]).SerializeToString()

    messages = [
        message("name", b"first"),
        message("name", b"again"),
        message("none", b"other"),
        message("n", b"third", number="7"),
    ]
    assert len({len(data) for data in messages}) == 1
    for data in messages * 2:
        assert put_together(read_request(data)) == pb.ModelInferRequest.FromString(data)


def test_what_follows_the_tensor_is_read_anew() -> None:
    def message(name: str) -> bytes:
        tensor = pb.ModelInferRequest(raw_input_contents=[b"pixel"]).SerializeToString()
        return tensor + pb.ModelInferRequest(model_name=name).SerializeToString()

    for name in ("first", "other"):
        assert pb.ModelInferRequest.FromString(read_request(message(name)).head).model_name == name


def test_fields_may_come_in_any_order() -> None:
    fields = [
        pb.ModelInferRequest(raw_input_contents=[b"first"]),
        pb.ModelInferRequest(id="7"),
        pb.ModelInferRequest(model_name="m"),
        pb.ModelInferRequest(raw_input_contents=[b"second"]),
        pb.ModelInferRequest(model_version="3"),
        pb.ModelInferRequest(id="8"),
    ]
    data = b"".join(field.SerializeToString() for field in fields)
    assert put_together(read_request(data)) == pb.ModelInferRequest.FromString(data)


# A field 9 of a varint, one of 100 of text, and one of 10 of 8 bytes.
@pytest.mark.parametrize("unknown", [b"\x48\x05", b"\xa2\x06\x02hi", b"\x51" + bytes(8)])
def test_fields_of_a_later_protocol_are_passed_over(unknown: bytes) -> None:
    read = read_request(unknown + request().SerializeToString() + unknown)
    assert read.id == request().id
    assert [bytes(raw) for raw in read.raws] == list(request().raw_input_contents)
    assert pb.ModelInferRequest.FromString(read.head).model_name == "m"


def test_message_that_is_cut_off_is_refused() -> None:
    data = pb.ModelInferRequest(id="7", raw_input_contents=[bytes(300)]).SerializeToString()
    whole = {0, 3, len(data)}
    for length in set(range(len(data))) - whole:
        with pytest.raises(InvalidInput, match="not a ModelInferRequest"):
            read_request(data[:length])


def test_id_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="its id is not UTF-8"):
        read_request(b"\x1a\x02\xff\xfe")


def test_length_past_every_bound_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a ModelInferRequest"):
        read_request(b"\x3a" + b"\xff" * 20)


def test_bytes_that_protobuf_refuses_are_refused_or_left_in_the_head() -> None:
    rng = random.Random(0)
    data = request().SerializeToString()[:400]
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            expected = pb.ModelInferRequest.FromString(bytes(damaged))
        except DecodeError:
            expected = None
        try:
            read = put_together(read_request(bytes(damaged)))
        except (InvalidInput, DecodeError):
            read = None
        if expected is None:
            assert read is None
        else:
            assert read == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.ModelInferRequest(id="i" * 8_000_000), "^id: expected at most 65536 bytes"),
        (
            pb.ModelInferRequest(inputs=[{"name": "n" * 8_000_000}]),
            "beside its tensors .* at most 65536 bytes, got 80000",
        ),
        (
            pb.ModelInferRequest(
                inputs=[{"name": "n" * 8_000_000, "contents": {"uint_contents": [1]}}]
            ),
            "an input without its contents: expected at most 65536 bytes, got 80000",
        ),
    ],
    ids=["id", "name", "name beside contents"],
)
def test_long_text_is_refused_before_it_is_copied(message: pb.ModelInferRequest, text: str) -> None:
    data = message.SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=text):
            read_request(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_contents_in_several_long_parts_are_refused() -> None:
    part = pb.ModelInferRequest.InferInputTensor(contents={"fp32_contents": [0.5] * 10_000})
    tensor = part.SerializeToString() * 2
    field = (
        b"\x2a"
        + bytes([len(tensor) & 0x7F | 0x80, len(tensor) >> 7 & 0x7F | 0x80])
        + bytes([len(tensor) >> 14])
    )
    with pytest.raises(InvalidInput, match=r"contents in several parts: .* at most 65536 bytes"):
        read_request(field + tensor)

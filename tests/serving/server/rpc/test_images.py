"""Requests are taken apart as protobuf reads them, without copies and within bounds."""

import tracemalloc

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from protos.gen import vision_pb2 as pb
from serving.base.errors import InvalidInput
from serving.models.servable import EncodedImage, RawPixels
from serving.server.rpc.images import read_request, source_of

LARGE = np.random.default_rng(0).bytes(100_000)
RAW = pb.RawImage(height=100, width=200, rgb=LARGE[:60_000])


def request(*images: pb.Image) -> pb.SegmentRequest:
    return pb.SegmentRequest(
        model="regions",
        version="1",
        images=images,
        options=pb.CallOptions(id="é", priority=3, timeout=Duration(seconds=2)),
        mask_format=pb.MASK_FORMAT_RAW,
        overlay=True,
    )


def test_large_request_is_that_of_protobuf() -> None:
    images = [
        pb.Image(encoded=LARGE),
        pb.Image(raw=RAW),
        pb.Image(encoded=b""),
        pb.Image(raw=pb.RawImage(height=4)),
    ]
    sent = request(*images)
    head, found = read_request(pb.SegmentRequest, sent.SerializeToString())
    assert head == request()
    sources = [source_of(image, index) for index, image in enumerate(found)]
    assert sources == [
        EncodedImage(LARGE),  # type: ignore[comparison-overlap]
        RawPixels(RAW.rgb, 100, 200),
        EncodedImage(b""),
        RawPixels(b"", 4, 0),
    ]
    assert isinstance(sources[0].data, memoryview)
    with pytest.raises(InvalidInput, match=r"images\[7\]: expected encoded or raw, got neither"):
        source_of(memoryview(b""), 7)


@pytest.mark.parametrize("side", [2, 100], ids=["small", "large"])
def test_raw_grey_is_told_from_raw_rgb(side: int) -> None:
    pixels = bytes(range(side)) * side
    grey = pb.RawImage(height=side, width=side, grey=pixels)
    sent = request(pb.Image(raw=grey), pb.Image(raw=pb.RawImage(height=1, width=1, rgb=b"abc")))
    _, found = read_request(pb.SegmentRequest, sent.SerializeToString())
    assert [source_of(image, 0) for image in found] == [
        RawPixels(pixels, side, side, channels=1),
        RawPixels(b"abc", 1, 1),
    ]


def test_last_of_several_raw_pixels_counts_as_in_protobuf() -> None:
    rgb = pb.RawImage(rgb=bytes(12_000)).SerializeToString()
    grey = pb.RawImage(height=40, width=100, grey=bytes(4000)).SerializeToString()
    for parts, channels in (((rgb, grey), 1), ((grey, rgb), 3)):
        image = pb.Image()
        image.raw.ParseFromString(b"".join(parts))
        merged = b"".join(parts)
        field = b"\x12" + _varint(len(merged)) + merged
        source = source_of(memoryview(field), 0)
        assert isinstance(source, RawPixels)
        assert source.channels == channels == (1 if image.raw.HasField("grey") else 3)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def test_small_request_is_that_of_protobuf() -> None:
    sent = request(pb.Image(encoded=b"x"), pb.Image())
    head, found = read_request(pb.SegmentRequest, sent.SerializeToString())
    assert head == sent
    assert source_of(found[0], 0) == EncodedImage(b"x")


def test_fields_of_any_order_and_of_later_versions_are_read() -> None:
    later = b"\xf8\x07\x01" + b"\xf9\x07" + bytes(8) + b"\xfa\x07\x02xy" + b"\xfd\x07" + bytes(4)
    image = pb.Image(encoded=LARGE).SerializeToString()
    assert len(image) == 100_004
    # The field's number has two bytes where one would do.
    field = b"\x9a\x00" + b"\xa4\x8d\x06" + image
    head, found = read_request(
        pb.SegmentRequest, later + field + pb.SegmentRequest(model="m").SerializeToString()
    )
    assert head.model == "m"
    assert [source_of(image, 0) for image in found] == [
        EncodedImage(LARGE)  # type: ignore[comparison-overlap]
    ]


BIG = pb.ClassifyRequest(images=[pb.Image(encoded=LARGE)]).SerializeToString()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1a\x00" * 1_000_000, "images: expected 1 to 256 in a call, got 257"),
        (b"\x50\x01" * 1_000_000, "expected at most 1024 fields"),
        (pb.ClassifyRequest(model="m" * 100_000).SerializeToString(), "the limit is 65536"),
        (BIG[:-1], "a field does not end within its"),
        (BIG + b"\x0a", "a field does not end within its"),
        (BIG + b"\xff" * 20, "a field does not end within its"),
        (BIG + b"\x0b\x0c", "groups and unknown kinds"),
        (BIG + b"\x0a\x01\xff", "DecodeError"),
    ],
    ids=["images", "fields", "name", "cut", "no length", "number", "group", "text"],
)
def test_request_that_is_none_or_has_too_much_is_refused(data: bytes, said: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=said):
            read_request(pb.ClassifyRequest, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_large_image_of_several_fields_is_refused() -> None:
    image = pb.Image(encoded=LARGE).SerializeToString() * 2
    with pytest.raises(InvalidInput, match=r"images\[3\]: expected encoded or raw and no other"):
        source_of(memoryview(image), 3)


def test_large_raw_image_of_too_many_fields_is_refused() -> None:
    raw = RAW.SerializeToString() + b"\x08\x01" * 20  # its height, over and over
    message = pb.Image(raw=RAW).SerializeToString()
    assert isinstance(source_of(memoryview(message), 0), RawPixels)
    size = len(raw)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    with pytest.raises(InvalidInput, match="at most 16 fields"):
        source_of(memoryview(b"\x12" + length + raw), 0)

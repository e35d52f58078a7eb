"""Segmentation answers are written as protobuf writes them."""

import numpy as np
import pytest

from protos.gen import vision_pb2 as pb
from serving.base.errors import AnswerTooLarge
from serving.batching.ticket import Timing
from serving.images.postprocess import runs_of
from serving.server.endpoints.vision import ClassArea, Segmentation
from serving.server.rpc.masks import (
    failed_field,
    mask_field,
    result_field,
    segment_response,
    varints,
)

MASK = np.random.default_rng(0).integers(0, 600, (40, 30), np.uint16)
MASK[3:9] = 5
FORMS = (pb.MASK_FORMAT_RAW, pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_PALETTE_PNG)


@pytest.mark.parametrize("mask_format", FORMS)
def test_answer_is_that_of_protobuf(mask_format: int) -> None:
    mask = MASK if mask_format != pb.MASK_FORMAT_PALETTE_PNG else MASK.astype(np.uint8)
    areas = (ClassArea(5, "five", 0.25, 0.5),)
    found = Segmentation(
        mask_field(mask, mask_format, 1 << 20), 40, 30, areas, b"overlay", Timing()
    )
    served = pb.Served(model="m", id="1")
    failed = pb.Segmentation(status=pb.Status(code=3, message="bad"))
    data = segment_response(
        served, [result_field(found, {"batch_size": 2}), failed_field(failed.status)]
    )
    response = pb.SegmentResponse.FromString(data)
    result, other = response.results
    assert response.served == served
    assert other == failed
    assert (result.height, result.width, result.timing.batch_size) == (40, 30, 2)
    assert [(area.name, area.fraction) for area in result.areas] == [("five", 0.25)]
    assert result.overlay_png == b"overlay"
    if mask_format == pb.MASK_FORMAT_RAW:
        assert result.raw == mask.tobytes()
    elif mask_format == pb.MASK_FORMAT_RLE:
        assert list(result.rle.runs) == np.concatenate(list(runs_of(mask))).tolist()
    else:
        assert result.palette_png.startswith(b"\x89PNG")


def test_numbers_of_every_length_are_packed_as_protobuf_packs_them() -> None:
    edges = [0, 1, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32 - 1]
    packed = varints(np.array(edges, np.uint32))
    runs = pb.RunLengths(runs=edges).SerializeToString()
    assert runs == b"\x0a" + bytes([len(packed)]) + packed
    assert varints(np.array([], np.uint32)) == b""


@pytest.mark.parametrize("mask_format", FORMS[1:])
def test_mask_that_no_answer_holds_is_given_up(mask_format: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    with pytest.raises(AnswerTooLarge, match="over 10000 bytes"):
        mask_field(noise, mask_format, 10_000)


def test_raw_mask_is_not_copied() -> None:
    _, content = mask_field(MASK, pb.MASK_FORMAT_RAW, 0)
    assert np.shares_memory(np.frombuffer(content, np.uint16), MASK)

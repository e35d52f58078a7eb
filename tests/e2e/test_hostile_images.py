"""Images that are small to send and huge to decode or to answer, sent to a server with 1 GiB of
memory, beside honest callers."""

import asyncio
from collections.abc import Iterator, Sequence

import grpc
import pytest

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc
from tests.support import hostile_files as files
from tests.support.beside import Honest
from tests.support.limited import LimitedServer
from tests.support.published import publish

MIB = 1024
OK, INVALID = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT
# Pixels a side of an image that a server of this size takes, 9 million pixels.
FITS = 3000
Request = pb.ClassifyRequest | pb.SegmentRequest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LimitedServer]:
    folder = tmp_path_factory.mktemp("hostile")
    publish(folder / "models")
    publish(folder / "models", "regions", "segmentation")
    server = LimitedServer(folder / "models", cache=folder / "cache", mib=MIB)
    yield server
    server.kill()


def classify(*images: bytes) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(model="colours", images=[pb.Image(encoded=x) for x in images])


def segment(*images: bytes, **options: int) -> pb.SegmentRequest:
    return pb.SegmentRequest(
        model="regions", images=[pb.Image(encoded=x) for x in images], **options
    )


async def statuses(
    url: str, requests: Sequence[Request], calls: int, timeout: float
) -> list[tuple[grpc.StatusCode, str]]:
    """The status and its text of each request, sent `calls` times; all at once."""
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(url, options) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)

        async def one(request: Request) -> tuple[grpc.StatusCode, str]:
            method = stub.Classify if isinstance(request, pb.ClassifyRequest) else stub.Segment
            call = method(request, timeout=timeout)
            return await call.code(), await call.details() or ""

        return list(await asyncio.gather(*(one(request) for request in [*requests] * calls)))


def attacked(
    server: LimitedServer, *requests: Request, calls: int, timeout: float = 30.0
) -> list[tuple[grpc.StatusCode, str]]:
    """The statuses, of a server that kept its bound, holds nothing any more and whose honest
    callers were answered."""
    assert server.healthy(), server.log[-5:]
    server.reset_peak()
    with Honest(server.url, deadline=2.0) as honest:
        found = asyncio.run(statuses(server.url, requests, calls, timeout))
    assert server.healthy(), server.log[-5:]
    assert server.kills == 0
    assert server.peak_mib() < 0.95 * MIB
    tally = honest.tally
    assert tally.answered > 0
    assert (tally.wrong, tally.late, tally.lost) == (0, 0, 0), tally
    for use in ("message", "decode", "batch", "answer"):
        assert server.metric(f'convserve_memory_held_bytes{{use="{use}"}}') == 0
    return found


def test_files_that_take_too_much_are_bad_input_by_their_header(server: LimitedServer) -> None:
    kinds = ("webp", "animated-webp", "jpeg-scans", "bmp")
    requests = [classify(files.BOMBS[kind](files.SIDE)) for kind in kinds]
    for code, text in attacked(server, *requests, calls=8):
        assert code is INVALID
        assert "limit" in text


def test_large_images_take_turns(server: LimitedServer) -> None:
    kinds = ("webp", "png-1-bit", "png-rgba", "png-interlaced")
    requests = [classify(files.BOMBS[kind](FITS)) for kind in kinds]
    # The largest that a limit of 1 GiB lets in.
    requests += [classify(files.png(files.SIDE, files.SIDE, depth=1))]
    requests += [classify(*[files.png(FITS, FITS, depth=1)] * 24)]
    for code, _ in attacked(server, *requests, calls=2):
        assert code is OK


def test_image_that_nobody_waits_for_is_not_decoded(server: LimitedServer) -> None:
    request = classify(*[files.progressive_jpeg(FITS, FITS, 30)] * 256)
    for code, _ in attacked(server, request, calls=2, timeout=0.5):
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    # A decode of what was left would hold the only turn of large work for half a minute.
    [(code, _)] = attacked(server, classify(files.webp(FITS, FITS)), calls=1, timeout=5.0)
    assert code is OK


def test_raw_masks_that_no_message_holds_are_refused_by_the_headers(server: LimitedServer) -> None:
    image = files.png(files.SIDE, files.SIDE, depth=1)
    request = segment(*[image] * 24, mask_format=pb.MASK_FORMAT_RAW)
    for code, text in attacked(server, request, calls=2):
        assert code is INVALID
        assert f"raw masks of 24 images take {24 * files.SIDE**2} bytes" in text
        assert f"an answer holds {32 << 20}" in text


@pytest.mark.parametrize(("side", "codes"), [(FITS, {OK}), (files.SIDE, {OK, INVALID})])
def test_masks_of_large_images_keep_the_bound(
    server: LimitedServer, side: int, codes: set[grpc.StatusCode]
) -> None:
    image = files.png(side, side, depth=1)
    requests = [
        segment(image, overlay=True),
        segment(image, overlay=True, mask_size=pb.MASK_SIZE_MODEL),
        segment(image, mask_format=pb.MASK_FORMAT_RLE),
        segment(image, mask_format=pb.MASK_FORMAT_RAW),
        segment(image, image),
    ]
    assert {code for code, _ in attacked(server, *requests, calls=1)} == codes

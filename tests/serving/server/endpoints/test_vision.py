"""VisionService on a fake engine: its answers, and every field out of its range."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from protos.gen import vision_pb2 as pb
from serving.base.errors import EngineError
from serving.base.memory import USES
from serving.server.endpoints import vision
from tests.support.hostile_files import bmp
from tests.support.in_process import SIDE, InProcess, in_process
from tests.support.pictures import encoded, smooth

SERVICE = "/convserve.vision.v1.VisionService/"
Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **options: int) -> None:
    async def run() -> None:
        async with in_process(folder, **options) as served:
            await scenario(served)
            # A decode that nobody waits for any more ends on its thread.
            async with asyncio.timeout(10):
                while any(served.value("convserve_memory_held_bytes", use=use) for use in USES):
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def pixels(*colour: int) -> pb.Image:
    """An image of one colour, of the size that the models take."""
    rgb = np.tile(np.array(colour, np.uint8), SIDE * SIDE).tobytes()
    return pb.Image(raw=pb.RawImage(height=SIDE, width=SIDE, rgb=rgb))


GREEN = pixels(10, 250, 20)


async def refused(served: InProcess, method: str, request: Any) -> str:
    """The reason for which a call is bad input."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await served.rpc(SERVICE + method, request)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return failure.value.details() or ""


def test_classes_are_ranked(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.ClassifyRequest(model="colours", images=[GREEN], top_k=2)
        answer = await served.rpc(SERVICE + "Classify", request)
        response = pb.ClassifyResponse.FromString(answer)
        assert [label.name for label in response.results[0].labels] == ["green", "blue"]
        assert (response.served.model, response.served.variant) == ("colours", "fp32")

    serve(tmp_path, scenario)


RED, BLUE = pixels(250, 10, 20), pixels(20, 10, 250)
PLAIN = (("red", RED), ("green", GREEN), ("blue", BLUE))
STAGES = ("decode", "queue", "infer", "postprocess")


async def best(served: InProcess, images: list[pb.Image]) -> list[pb.Classification]:
    request = pb.ClassifyRequest(model="colours", images=images, top_k=1)
    response = pb.ClassifyResponse.FromString(await served.rpc(SERVICE + "Classify", request))
    return list(response.results)


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_images_of_a_call_share_batches_and_are_answered_in_their_order(
    tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "_SMALL", small)  # Larger answers are read on a thread.

    async def scenario(served: InProcess) -> None:
        # The model takes 8 rows.
        sent = [PLAIN[index * index % 3] for index in range(20)]
        results = await best(served, [image for _, image in sent])
        assert [result.labels[0].name for result in results] == [name for name, _ in sent]
        assert [result.timing.batch_size for result in results] == [8] * 16 + [4] * 4
        labels = {"model": "colours", "version": "1"}
        assert served.value("nv_inference_count", **labels) == 20
        assert served.value("nv_inference_exec_count", **labels) == 3
        assert served.value("nv_inference_request_success", **labels) == 1
        for stage in STAGES:
            count = served.value("convserve_stage_duration_seconds_count", **labels, stage=stage)
            assert (stage, count) == (stage, 20)

    serve(tmp_path, scenario)


def test_bad_images_have_no_row_in_the_batch_of_the_others(tmp_path: Path) -> None:
    bad = pb.Image(encoded=b"none"), pb.Image(raw=pb.RawImage(height=4, width=4, rgb=b"short"))

    async def scenario(served: InProcess) -> None:
        for images in ([RED, *bad, BLUE], [RED, bad[1], BLUE]):
            results = await best(served, images)
            codes = [result.status.code for result in results]
            assert codes == [0, *[3] * (len(images) - 2), 0]
            assert [results[i].labels[0].name for i in (0, -1)] == ["red", "blue"]
            assert [results[i].timing.batch_size for i in (0, -1)] == [2, 2]
            assert served.value("convserve_queue_depth", model="colours", version="1") == 0
        results = await best(served, list(bad))
        assert [result.status.code for result in results] == [3, 3]
        labels = {"model": "colours", "version": "1"}
        assert served.value("nv_inference_count", **labels) == 4

    serve(tmp_path, scenario)


def test_each_image_of_a_batch_that_fails_says_so(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        served.engines["colours"].failure = EngineError("no kernel")
        results = await best(served, [RED, GREEN])
        assert [result.status.message for result in results] == ["no kernel"] * 2

    serve(tmp_path, scenario)


def test_mask_and_areas_are_those_of_the_image(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(model="regions", images=[GREEN], mask_format=pb.MASK_FORMAT_RAW)
        answer = await served.rpc(SERVICE + "Segment", request)
        [result] = pb.SegmentResponse.FromString(answer).results
        assert result.raw == b"\x01" * SIDE * SIDE
        assert [(area.name, area.fraction) for area in result.areas] == [("green", 1.0)]

    serve(tmp_path, scenario)


def test_embedding_lies_on_the_unit_sphere(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.EmbedRequest(model="points", images=[GREEN])
        answer = await served.rpc(SERVICE + "Embed", request)
        [result] = pb.EmbedResponse.FromString(answer).results
        assert np.linalg.norm(result.values) == pytest.approx(1.0)

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "timeout",
    [
        Duration(seconds=-5),
        Duration(nanos=-1),
        Duration(seconds=5, nanos=-1),
        Duration(nanos=10**9),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ],
)
def test_timeout_that_is_no_time_is_refused_by_every_method(
    tmp_path: Path, timeout: Duration
) -> None:
    options = pb.CallOptions(timeout=timeout)

    async def scenario(served: InProcess) -> None:
        for method, request in (
            ("Classify", pb.ClassifyRequest(model="colours", images=[GREEN], options=options)),
            ("Segment", pb.SegmentRequest(model="regions", images=[GREEN], options=options)),
            ("Embed", pb.EmbedRequest(model="points", images=[GREEN], options=options)),
        ):
            assert "options.timeout: expected 0 s to" in await refused(served, method, request)

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mask_size", 99, "mask_size: expected one of MASK_SIZE_UNSPECIFIED, MASK_SIZE_IMAGE"),
        ("mask_size", -1, "got -1"),
        ("mask_format", 99, "mask_format: expected one of MASK_FORMAT_UNSPECIFIED"),
        ("mask_format", -(2**31), "got -2147483648"),
    ],
)
def test_enums_have_no_other_values(tmp_path: Path, field: str, value: int, said: str) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(model="regions", images=[GREEN], **{field: value})
        assert said in await refused(served, "Segment", request)

    serve(tmp_path, scenario)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), float("-inf"), -0.1, 1.1])
def test_threshold_is_a_share(tmp_path: Path, threshold: float) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.ClassifyRequest(model="colours", images=[GREEN], threshold=threshold)
        assert "threshold: expected 0 to 1" in await refused(served, "Classify", request)

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "image",
    [
        pb.Image(),
        pb.Image(encoded=b""),
        pb.Image(encoded=b"no image"),
        pb.Image(raw=pb.RawImage(height=0, width=0, rgb=b"")),
        pb.Image(raw=pb.RawImage(height=0, width=SIDE, rgb=b"")),
        pb.Image(raw=pb.RawImage(height=SIDE, width=SIDE, rgb=b"\0" * (SIDE * SIDE * 3 - 1))),
        pb.Image(raw=pb.RawImage(height=2**32 - 1, width=2**32 - 1, rgb=b"\0")),
        pb.Image(raw=pb.RawImage(height=200, width=200, rgb=b"\0" * 120_000)),
    ],
    ids=["none", "empty", "other", "no size", "no height", "short", "huge", "too many pixels"],
)
def test_images_that_are_none_are_refused(tmp_path: Path, image: pb.Image) -> None:
    async def scenario(served: InProcess) -> None:
        await refused(served, "Classify", pb.ClassifyRequest(model="colours", images=[image]))

    serve(tmp_path, scenario)


def test_numbers_past_the_end_of_a_scale_are_its_end(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        options = pb.CallOptions(priority=2**32 - 1, timeout=Duration(seconds=315_576_000_000))
        request = pb.ClassifyRequest(
            model="colours", images=[GREEN], top_k=2**32 - 1, options=options
        )
        answer = await served.rpc(SERVICE + "Classify", request)
        assert len(pb.ClassifyResponse.FromString(answer).results[0].labels) == 3

    serve(tmp_path, scenario)


@pytest.mark.parametrize("method", ["Classify", "Segment", "Embed"])
def test_text_that_is_not_utf8_is_refused(tmp_path: Path, method: str) -> None:
    async def scenario(served: InProcess) -> None:
        assert "DecodeError" in await refused(served, method, b"\x0a\x01\xff")

    serve(tmp_path, scenario)


IMAGE = pb.Image(encoded=encoded(smooth(20, 30), "PNG"))
NOISE = pb.Image(
    encoded=encoded(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8), "PNG")
)


@pytest.mark.parametrize("images", [[IMAGE] * 3, [IMAGE, GREEN, IMAGE, IMAGE]])
def test_raw_masks_larger_than_an_answer_are_refused_before_work(
    tmp_path: Path, images: list[pb.Image]
) -> None:
    size = sum(600 if image is IMAGE else SIDE * SIDE for image in images)

    async def scenario(served: InProcess) -> None:
        served.engines["regions"].failure = AssertionError("it worked")
        request = pb.SegmentRequest(model="regions", images=images, mask_format=pb.MASK_FORMAT_RAW)
        said = await refused(served, "Segment", request)
        assert (
            f"the raw masks of {len(images)} images take {size} bytes, an answer holds 1700" in said
        )
        assert "send fewer or smaller images" in said

    serve(tmp_path, scenario, max_answer=1700)


@pytest.mark.parametrize(
    "liar",
    [
        pb.Image(encoded=bmp(60_000, 60_000)),
        pb.Image(raw=pb.RawImage(height=40, width=50, rgb=b"\0")),
        pb.Image(raw=pb.RawImage(height=2**32 - 1, width=2**32 - 1, rgb=b"\0")),
    ],
    ids=["file", "raw", "huge raw"],
)
def test_image_that_lies_about_its_size_fails_alone(tmp_path: Path, liar: pb.Image) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(
            model="regions", images=[IMAGE, liar], mask_format=pb.MASK_FORMAT_RAW
        )
        answer = pb.SegmentResponse.FromString(await served.rpc(SERVICE + "Segment", request))
        good, bad = answer.results
        assert (len(good.raw), good.status.code) == (600, 0)
        assert bad.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]

    serve(tmp_path, scenario, max_answer=1700)


def test_raw_masks_of_the_models_size_count_as_those(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(
            model="regions",
            images=[IMAGE] * 3,
            mask_format=pb.MASK_FORMAT_RAW,
            mask_size=pb.MASK_SIZE_MODEL,
        )
        answer = pb.SegmentResponse.FromString(await served.rpc(SERVICE + "Segment", request))
        assert [len(result.raw) for result in answer.results] == [SIDE * SIDE] * 3

    serve(tmp_path, scenario, max_answer=1700)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_format": pb.MASK_FORMAT_RLE},
        {"mask_format": pb.MASK_FORMAT_RLE, "overlay": True},
        {"mask_size": pb.MASK_SIZE_MODEL, "overlay": True},
    ],
)
def test_answer_that_becomes_too_large_fails_the_call(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async def scenario(served: InProcess) -> None:
        one = pb.SegmentRequest(model="regions", images=[NOISE], **options)
        size = len(await served.rpc(SERVICE + "Segment", one))
        many = pb.SegmentRequest(model="regions", images=[NOISE] * (30_000 // size + 1), **options)
        assert "has over 20000 bytes; send fewer" in await refused(served, "Segment", many)

    serve(tmp_path, scenario, max_answer=20_000)


def test_bad_image_among_masks_fails_alone(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        images = [IMAGE, pb.Image(encoded=b"none"), IMAGE]
        request = pb.SegmentRequest(model="regions", images=images)
        answer = pb.SegmentResponse.FromString(await served.rpc(SERVICE + "Segment", request))
        assert [result.status.code for result in answer.results] == [0, 3, 0]
        assert (answer.results[2].height, answer.results[2].width) == (20, 30)

    serve(tmp_path, scenario)


@pytest.mark.parametrize("method", ["Classify", "Segment"])
def test_image_that_the_memory_never_holds_is_bad_input(tmp_path: Path, method: str) -> None:
    async def scenario(served: InProcess) -> None:
        kind = pb.ClassifyRequest if method == "Classify" else pb.SegmentRequest
        model = "colours" if method == "Classify" else "regions"
        said = await refused(served, method, kind(model=model, images=[IMAGE]))
        assert "bytes of memory are needed for its decoded image, the limit is 100000" in said

    serve(tmp_path, scenario, memory_bytes=100_000)


def test_rows_and_answer_are_held_for_the_call(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(model="regions", images=[GREEN], mask_format=pb.MASK_FORMAT_RAW)
        row = SIDE * SIDE * (3 + 2)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.rpc(SERVICE + "Segment", request)
        assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{row} more for its rows do not fit" in (failure.value.details() or "")

    # The native wire needs more for any call.
    serve(tmp_path, scenario, memory_bytes=90, wire_name="grpcio")


def test_mask_of_megabytes_arrives_whole(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.SegmentRequest(
            model="regions",
            images=[pb.Image(encoded=encoded(smooth(90, 100), "PNG"))] * 40,
            mask_format=pb.MASK_FORMAT_RAW,
        )
        answer = pb.SegmentResponse.FromString(await served.rpc(SERVICE + "Segment", request))
        assert [len(result.raw) for result in answer.results] == [9000] * 40
        assert len({result.raw for result in answer.results}) == 1

    serve(tmp_path, scenario)

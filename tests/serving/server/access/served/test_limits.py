"""Limits of a caller, reached over the wires."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.server.access.caller import Caller
from tests.serving.server.access.served.conftest import (
    KEYS,
    OIP,
    REST_TENSORS,
    VISION,
    Place,
    code,
    image,
    rpc,
    serve,
    shows,
    tensors,
)
from tests.support.in_process import InProcess
from tests.support.pictures import encoded

LIMITED = [
    ("requests_per_second: 1", "requests_per_second 1"),
    ("requests_per_day: 1", "requests_per_day 1"),
    ("images_per_second: 1", "images_per_second 1"),
    ("images_per_day: 1", "images_per_day 1"),
    ("pixels_per_second: 1", "pixels_per_second 1"),
]


@pytest.mark.parametrize(("limit", "said"), LIMITED, ids=[limit for limit, _ in LIMITED])
def test_limit_that_is_reached_says_when_to_try_again(
    limit: str, said: str, tmp_path: Path, place: Place
) -> None:
    place.write_policy(f"{{{limit}}}")

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        assert await code(served, VISION + "Classify", image(images=8), lab) == "OK"
        error = await rpc(served, OIP + "ModelInfer", tensors(), lab)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == f"your limit is reached: {said}"
        [details] = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
        retry = RetryInfo()
        assert Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.ToNanoseconds() > 0
        async with served.http.post(
            "/v2/models/plain/infer", headers=lab, json=REST_TENSORS
        ) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        assert await code(served, OIP + "ModelInfer", tensors("colours"), shows("clinic")) != (
            "RESOURCE_EXHAUSTED"
        )

    serve(tmp_path, scenario, place.ruled)


def test_calls_that_began_together_take_no_more_images_than_the_day_has(
    tmp_path: Path, place: Place
) -> None:
    """Over REST a call is let in by its head, and says how many it brings in its body."""
    place.write_policy("{images_per_day: 3}")
    body = json.dumps(REST_TENSORS).encode()
    going_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:5]
        await going_on.wait()
        yield body[5:]

    async def scenario(served: InProcess) -> None:
        async def call() -> int:
            path, headers = "/v2/models/plain/infer", shows("lab")
            async with served.http.post(path, data=slow(), headers=headers) as answer:
                return answer.status

        calls = [asyncio.create_task(call()) for _ in range(10)]
        account = served.front.door.visit(Caller("", api_key=KEYS["lab"])).account
        while account.calls < 10:
            await asyncio.sleep(0.005)  # until all are let in
        going_on.set()
        assert sorted(await asyncio.gather(*calls)) == [200] * 3 + [429] * 7

    serve(tmp_path, scenario, place.ruled)


def test_pixels_of_an_image_that_breaks_at_its_end_count(tmp_path: Path, place: Place) -> None:
    place.write_policy("{pixels_per_second: 1}")
    broken = vision.ClassifyRequest(model="colours")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    broken.images.add(encoded=encoded(noise, "PNG")[:-1000])

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        assert await code(served, VISION + "Classify", broken, lab) == "INVALID_ARGUMENT"
        assert await code(served, VISION + "Classify", image(), lab) == "RESOURCE_EXHAUSTED"

    serve(tmp_path, scenario, place.ruled)


def test_rows_of_tensors_count_as_images(tmp_path: Path, place: Place) -> None:
    place.write_policy("{images_per_day: 3}")
    request = pb.ModelInferRequest(model_name="plain")
    request.inputs.add(name="x", datatype="FP32", shape=[4, 3])
    request.raw_input_contents.append(b"\0" * 48)

    async def scenario(served: InProcess) -> None:
        method = OIP + "ModelInfer"
        assert await code(served, method, request, shows("lab")) == "OK"
        assert await code(served, method, request, shows("lab")) == "RESOURCE_EXHAUSTED"

    serve(tmp_path, scenario, place.ruled)


def test_bytes_calls_and_streams_are_limited_at_a_time(tmp_path: Path, place: Place) -> None:
    place.write_policy("{bytes_held: 10, streams: 1, calls: 1}")

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        error = await rpc(served, OIP + "ModelInfer", tensors(), lab)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "your limit is reached: bytes_held 10"
        assert served.front.budget.used == 0
        stream: Any = served.channel.stream_stream(OIP + "ModelStreamInfer")
        first = stream(metadata=tuple(lab.items()))
        await first.write(tensors().SerializeToString())
        answer = pb.ModelStreamInferResponse.FromString(await first.read())
        assert "bytes_held" in answer.error_message
        other = stream(metadata=tuple(lab.items()))
        assert await other.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await other.details() == "your limit is reached: streams 1"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        second = stream(metadata=tuple(lab.items()))
        await second.done_writing()
        assert await second.read() is grpc.aio.EOF

    serve(tmp_path, scenario, place.ruled)

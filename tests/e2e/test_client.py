"""The Python client against real server processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc
from serving.client import AsyncVisionClient, CallFailed, ImageInput, VisionClient, mask_of
from serving.client.streams import SharedStream
from tests.support.process import ServerProcess
from tests.support.published import publish

StartServer = Callable[..., ServerProcess]


def shade(index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image whose dominant colour is index % 3."""
    pixels = np.full((8, 8, 3), 20, np.uint8)
    pixels[..., index % 3] = 200
    return pixels


def best(response: pb.ClassifyResponse | CallFailed) -> int:
    assert isinstance(response, pb.ClassifyResponse), response
    return response.results[0].labels[0].index


def test_many_images_are_answered_in_order(server: ServerProcess) -> None:
    with VisionClient(server.url) as client:
        answers = list(client.classify_many("colours", map(shade, range(300)), concurrency=32))
    assert [best(response) for _, response in answers] == [i % 3 for i in range(300)]


def test_folder_is_walked_and_a_bad_file_fails_alone(server: ServerProcess, tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(shade(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.jpg").write_bytes(b"broken")
    with VisionClient(server.url) as client:
        answers = dict(client.classify_many("colours", tmp_path))
    assert [Path(str(path)).name for path in answers] == ["0.png", "1.jpg", "1.png", "2.png"]
    bad = answers.pop(tmp_path / "1.jpg")
    assert isinstance(bad, CallFailed)
    assert bad.code == "INVALID_ARGUMENT"
    assert [best(response) for response in answers.values()] == [0, 1, 2]


def test_masks_and_embeddings_of_many(server: ServerProcess) -> None:
    with VisionClient(server.url) as client:
        masks = client.segment_many("regions", [shade(0), shade(2)], mask_format="rle")
        for (_, response), expected in zip(masks, (0, 2), strict=True):
            assert isinstance(response, pb.SegmentResponse)
            assert (mask_of(response.results[0]) == expected).all()
        [(_, embedded)] = client.embed_many("points", [shade(1)])
        assert isinstance(embedded, pb.EmbedResponse)
        assert int(np.argmax(embedded.results[0].values)) == 1


def test_calls_are_spread_over_servers_and_survive_one(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    first, second = (start_server(tmp_path).wait_ready() for _ in range(2))

    def served(server: ServerProcess) -> float:
        return server.metric('nv_inference_request_success{model="colours",version="1"}')

    with VisionClient([first.url, second.url], retries=4) as client:
        for index in range(20):
            assert best(client.classify("colours", shade(index))) == index % 3
        assert served(first) == served(second) == 10
        first.kill()
        for index in range(10):
            assert best(client.classify("colours", shade(index))) == index % 3
        answers = list(client.classify_many("colours", map(shade, range(50))))
        assert [best(response) for _, response in answers] == [i % 3 for i in range(50)]


def test_stream_calls_survive_a_server_that_stops(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    first, second = (start_server(tmp_path).wait_ready() for _ in range(2))

    async def body() -> None:
        async with AsyncVisionClient([first.url, second.url], retries=4) as client:
            count = 0
            async for _, response in client.classify_many("colours", map(shade, range(400))):
                assert best(response) == count % 3
                count += 1
                if count == 100:
                    first.kill()
            assert count == 400

    asyncio.run(body())


def test_streams_are_renewed_by_age(server: ServerProcess) -> None:
    opened = 0

    async def body() -> None:
        channel = grpc.aio.insecure_channel(server.url)
        method: Any = channel.stream_stream(
            "/convserve.vision.v1.VisionService/ClassifyStream",
            response_deserializer=pb.ClassifyResponse.FromString,
        )

        def opener() -> object:
            nonlocal opened
            opened += 1
            return method()

        shared: SharedStream[pb.ClassifyResponse] = SharedStream([opener], 1 << 20, max_age=0.0)
        raw = pb.RawImage(height=8, width=8, rgb=shade(1).tobytes())
        request = pb.ClassifyRequest(model="colours", images=[pb.Image(raw=raw)])
        answers = await asyncio.gather(*(shared.ask(request, 10.0) for _ in range(5)))
        assert [best(answer) for answer in answers] == [1] * 5
        await shared.close()
        await channel.close()

    asyncio.run(body())
    assert opened == 5


class RefusesOnce(vision_pb2_grpc.VisionServiceServicer):
    """Sheds the first call with a retry delay, and answers the second."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.called: list[float] = []

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.ClassifyResponse:
        from serving.base.errors import Shed
        from serving.server.wire.errors import end_of

        self.called.append(time.monotonic())
        if len(self.called) == 1:
            end = end_of(Shed("later", self.delay))
            details = (("grpc-status-details-bin", end.details),)
            await context.abort(end.code, end.message, details)
        served = pb.Served(model=request.model)
        return pb.ClassifyResponse(served=served, results=[pb.Classification()])


@pytest.mark.parametrize(("delay", "timeout", "answered"), [(0.2, 10.0, True), (5.0, 1.0, False)])
def test_retry_waits_as_long_as_the_server_asks_but_not_past_the_timeout(
    delay: float, timeout: float, answered: bool
) -> None:
    async def body() -> None:
        service = RefusesOnce(delay)
        server = grpc.aio.server()
        vision_pb2_grpc.add_VisionServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncVisionClient(f"127.0.0.1:{port}", timeout=timeout) as client:
            if answered:
                response = await client.classify("m", b"x")
                assert response.served.model == "m"
                assert service.called[1] - service.called[0] >= delay
            else:
                with pytest.raises(CallFailed) as failure:
                    await client.classify("m", b"x")
                assert failure.value.code == "RESOURCE_EXHAUSTED"
                assert failure.value.retry_after == pytest.approx(delay)
                assert len(service.called) == 1
        await server.stop(0)

    asyncio.run(body())


class TakesTwo(vision_pb2_grpc.VisionServiceServicer):
    """Answers two images of a message, with the names that they consist of, and sheds the rest."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []

    async def ClassifyStream(  # noqa: N802
        self,
        requests: AsyncIterator[pb.ClassifyRequest],
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[pb.ClassifyResponse]:
        async for request in requests:
            names = [image.encoded for image in request.images]
            self.messages.append(names)
            served = pb.Served(model=request.model, id=request.options.id)
            response = pb.ClassifyResponse(served=served)
            for name in names[:2]:
                response.results.add().labels.add(name=name[:9].decode())
            for _ in names[2:]:
                status = response.results.add().status
                status.code, status.message = 8, "later"
                status.retry_delay.nanos = 1_000_000
            yield response


def many_of(
    service: TakesTwo, images: Iterable[ImageInput], **options: int
) -> list[str | CallFailed]:
    """The first label of each image, or what went wrong."""

    async def body() -> list[str | CallFailed]:
        server = grpc.aio.server()
        vision_pb2_grpc.add_VisionServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncVisionClient(f"127.0.0.1:{port}", retries=options["retries"]) as client:
            answers = client.classify_many("m", images, concurrency=options["concurrency"])
            found = [
                a if isinstance(a, CallFailed) else a.results[0].labels[0].name
                async for _, a in answers
            ]
        await server.stop(0)
        return found

    return asyncio.run(body())


def test_small_images_share_messages_and_only_those_refused_are_sent_again() -> None:
    service = TakesTwo()
    images = [b"a", b"b", b"c", b"d", b"e"]
    assert many_of(service, images, concurrency=10, retries=2) == ["a", "b", "c", "d", "e"]
    assert service.messages == [images, images[2:], images[4:]]


def test_images_that_are_refused_to_the_end_fail_alone() -> None:
    service = TakesTwo()
    found = many_of(service, [b"a", b"b", b"c", Path("gone.jpg"), b"d"], concurrency=10, retries=0)
    assert found[:2] == ["a", "b"]
    codes = [failure.code for failure in found[2:] if isinstance(failure, CallFailed)]
    assert codes == ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"]


def test_many_tiny_images_stay_within_what_a_server_takes(server: ServerProcess) -> None:
    with VisionClient(server.url) as client:
        answers = list(client.classify_many("colours", map(shade, range(900)), concurrency=900))
    assert [best(response) for _, response in answers] == [i % 3 for i in range(900)]


def test_image_that_is_wrong_when_sent_again_says_so() -> None:
    class TurnsBad(TakesTwo):
        async def ClassifyStream(  # noqa: N802
            self,
            requests: AsyncIterator[pb.ClassifyRequest],
            context: grpc.aio.ServicerContext[object, object],
        ) -> AsyncIterator[pb.ClassifyResponse]:
            async for response in super().ClassifyStream(requests, context):
                if len(self.messages) > 1:
                    status = pb.Status(code=3, message="not an image")
                    served = pb.Served(id=response.served.id, status=status)
                    response = pb.ClassifyResponse(served=served)
                yield response

    *_, last = many_of(TurnsBad(), [b"a", b"b", b"c"], concurrency=10, retries=2)
    assert isinstance(last, CallFailed)
    assert (last.code, last.message) == ("INVALID_ARGUMENT", "not an image")


@pytest.mark.parametrize("name", ["gone", "file.jpg"])
def test_path_that_is_no_folder_is_refused(
    server: ServerProcess, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file.jpg").write_bytes(b"")
    with (
        VisionClient(server.url) as client,
        pytest.raises(NotADirectoryError, match=f"{name}: expected a folder of images"),
    ):
        list(client.classify_many("colours", tmp_path / name))


def test_large_images_have_messages_of_their_own_and_others_no_more_than_fit() -> None:
    service = TakesTwo()
    images = [b"small", b"l" * 70_000, b"m" * 40_000, b"n" * 40_000, b"1", b"2", b"3", b"4"]
    assert len(many_of(service, images, concurrency=4, retries=2)) == len(images)
    assert [len(names) for names in service.messages] == [1, 1, 1, 2, 2, 1]


def test_wrong_pixels_are_refused_before_they_are_sent(server: ServerProcess) -> None:
    with (
        VisionClient(server.url) as client,
        pytest.raises(ValueError, match=r"expected uint8 \[height, width, 3\]"),
    ):
        client.classify("colours", np.zeros((8, 8, 4), np.uint8))


def test_message_over_the_limit_of_the_client_says_so_and_fails_alone() -> None:
    service = TakesTwo()
    found = many_of(service, [b"a", bytes(33 << 20), b"b"], concurrency=10, retries=2)
    assert (found[0], found[2]) == ("a", "b")
    assert isinstance(found[1], CallFailed)
    assert found[1].code == "INVALID_ARGUMENT"
    assert "max_message_mib allows 33554432" in found[1].message
    assert len(service.messages) == 2


def test_message_over_the_limit_of_the_server_says_so_and_is_not_sent_again(
    server: ServerProcess,
) -> None:
    with VisionClient(server.url, max_message_mib=64, retries=2) as client:
        begin = time.monotonic()
        with pytest.raises(CallFailed, match="larger than max") as failure:
            client.classify("colours", bytes(33 << 20))
        assert failure.value.code == "RESOURCE_EXHAUSTED"
        assert not failure.value.for_now
        assert time.monotonic() - begin < 30.0
        assert best(client.classify("colours", shade(1))) == 1
        answers = [a for _, a in client.classify_many("colours", [bytes(33 << 20), shade(2)])]
        assert isinstance(answers[0], CallFailed)
        assert "larger than max" in answers[0].message
        assert not answers[0].for_now
        assert best(answers[1]) == 2
    with VisionClient(server.url) as client, pytest.raises(CallFailed, match="33554432"):
        client.classify("colours", bytes(33 << 20))


def test_id_of_the_caller_comes_back(server: ServerProcess) -> None:
    with VisionClient(server.url) as client:
        assert client.classify("colours", shade(0), id="mine").served.id == "mine"
        for _, answer in client.classify_many("colours", map(shade, range(3)), id="mine"):
            assert isinstance(answer, pb.ClassifyResponse)
            assert answer.served.id == "mine"
        for _, answer in client.classify_many("colours", map(shade, range(3))):
            assert isinstance(answer, pb.ClassifyResponse)
            assert answer.served.id == ""

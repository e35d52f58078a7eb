"""Both gRPC clients against a real server."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from loadtest.errors import LoadTestError
from loadtest.payloads.content import Payload
from loadtest.results import OK, UNCHECKED
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from loadtest.wire.grpc_models import describe
from loadtest.wire.messages import Outcome, Request, infer_request, vision_request

Connect = Callable[[str], Any]

CONNECT: dict[str, Connect] = {
    "unary": lambda url: UnaryClient(url, 10.0),
    "stream": lambda url: StreamClient(url, 10.0, 2),
}


@pytest.fixture(params=list(CONNECT))
def connect(request: pytest.FixtureRequest) -> Connect:
    return CONNECT[request.param]


def calls(
    connect: Connect, url: str, use: Callable[[Any], Coroutine[Any, Any, list[Outcome]]]
) -> list[Outcome]:
    async def run() -> list[Outcome]:
        client = connect(url)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def classify(url: str, image: bytes, expected: str = "") -> Request:
    (facts,) = asyncio.run(describe(url, ["animals"]))
    payload = Payload(images=(image,), expected=(expected,) if expected else ())
    return vision_request(0, facts, payload)


def test_an_answer_says_where_the_time_went(connect: Connect, vision_server: Any) -> None:
    request = classify(vision_server.url, b"cat")
    (answer,) = calls(connect, vision_server.url, lambda c: asyncio.gather(c.call(request, 0, 0)))
    assert answer == (OK, UNCHECKED, 4, 10, 20, 30, 40)


def test_answers_are_checked(connect: Connect, vision_server: Any) -> None:
    right = classify(vision_server.url, b"cat", "cat")
    wrong = classify(vision_server.url, b"cat", "dog")

    def use(client: Any) -> Any:
        return asyncio.gather(*(client.call(r, 0, 0) for r in (right, wrong) * 10))

    answers = calls(connect, vision_server.url, use)
    assert [answer[1] for answer in answers] == [1, 0] * 10


def test_a_call_of_several_images_counts_the_right_ones(
    connect: Connect, vision_server: Any
) -> None:
    (facts,) = asyncio.run(describe(vision_server.url, ["animals"]))
    payload = Payload(images=(b"a", b"b", b"c"), expected=("a", "x", "c"))
    request = vision_request(0, facts, payload)
    (answer,) = calls(connect, vision_server.url, lambda c: asyncio.gather(c.call(request, 0, 0)))
    assert answer[:3] == (OK, 2, 4)


def test_open_inference_answers_are_checked_by_class(connect: Connect, vision_server: Any) -> None:
    (facts,) = asyncio.run(describe(vision_server.url, ["animals"]))
    requests = [
        infer_request(0, facts, Payload(images=(b"cat",), expected=(name,)))
        for name in ("cat", "dog")
    ]

    def use(client: Any) -> Any:
        return asyncio.gather(*(client.call(request, 0, 0) for request in requests))

    assert [a[:2] for a in calls(connect, vision_server.url, use)] == [(OK, 1), (OK, 0)]


def test_a_priority_reaches_the_server(connect: Connect, vision_server: Any) -> None:
    request = classify(vision_server.url, b"cat")
    calls(connect, vision_server.url, lambda c: asyncio.gather(c.call(request, 5.0, 7)))
    assert vision_server.answers.seen[-1].options.priority == 7


def test_a_deadline_ends_a_call(connect: Connect, vision_server: Any) -> None:
    request = classify(vision_server.url, b"cat")
    vision_server.answers.delay = 0.5
    (answer,) = calls(connect, vision_server.url, lambda c: asyncio.gather(c.call(request, 0.1, 0)))
    assert answer[0] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_a_refusal_is_its_status(connect: Connect, vision_server: Any) -> None:
    request = classify(vision_server.url, b"cat")
    vision_server.answers.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
    (answer,) = calls(connect, vision_server.url, lambda c: asyncio.gather(c.call(request, 0, 0)))
    assert answer[0] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_a_broken_stream_is_opened_again(vision_server: Any) -> None:
    request = classify(vision_server.url, b"cat")

    async def use(client: Any) -> list[Outcome]:
        vision_server.answers.refuse = grpc.StatusCode.INTERNAL
        broken = await asyncio.gather(*(client.call(request, 0, 0) for _ in range(6)))
        vision_server.answers.refuse = None
        return [*broken, *await asyncio.gather(*(client.call(request, 0, 0) for _ in range(6)))]

    answers = calls(CONNECT["stream"], vision_server.url, use)
    assert [a[0] for a in answers] == [grpc.StatusCode.INTERNAL.value[0]] * 6 + [OK] * 6


def test_an_error_on_an_open_inference_stream_has_no_code(vision_server: Any) -> None:
    (facts,) = asyncio.run(describe(vision_server.url, ["animals"]))
    request = infer_request(0, facts, Payload(images=(b"cat",)))
    (answer,) = calls(
        CONNECT["stream"], vision_server.url, lambda c: asyncio.gather(c.call(request, 0, 1))
    )
    assert answer[0] == grpc.StatusCode.UNKNOWN.value[0]


def test_a_server_that_is_not_there_is_named(connect: Connect) -> None:
    with pytest.raises(LoadTestError, match=r"no server answers at 127\.0\.0\.1:1 "):
        asyncio.run(describe("127.0.0.1:1", ["m"]))
    request = Request(0, "Classify", b"", 1)
    (answer,) = calls(connect, "127.0.0.1:1", lambda c: asyncio.gather(c.call(request, 0, 0)))
    assert answer[0] == grpc.StatusCode.UNAVAILABLE.value[0]


def test_an_unknown_model_is_named(vision_server: Any) -> None:
    with pytest.raises(LoadTestError, match="model 'plants'"):
        asyncio.run(describe(vision_server.url, ["plants"]))

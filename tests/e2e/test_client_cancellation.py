"""Callers of one client that leave at any moment: no other gets a wrong answer or waits for ever.

Every image has a colour of its own, which its answer tells again.
"""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from unittest.mock import patch

import numpy as np
import pytest

from protos.gen import vision_pb2 as pb
from serving.client import AsyncVisionClient, CallFailed, VisionClient, streams
from tests.support.process import ServerProcess

# Seconds within which everything here ends, on a machine that does much else.
END = 60.0
# Of `colours`: logits are ten times the mean of each channel in [0, 1].
GAIN = 10 / 255


def colour(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image of one colour, another for each number below 60,000."""
    return np.full((8, 8, 3), (number % 250, number // 250, 128), np.uint8)


def number_of(response: pb.ClassifyResponse | pb.EmbedResponse) -> int:
    """The number of the colour that an answer was given for."""
    [result] = response.results
    if isinstance(result, pb.Embedding):
        red, green = np.array(result.values[:2]) / result.values[2] * 128
    else:
        scores = np.zeros(3)
        for label in result.labels:
            scores[label.index] = label.score
        red, green = np.log(scores[:2] / scores[2]) / GAIN + 128
    return round(red) + 250 * round(green)


@pytest.mark.parametrize("rounds", range(12))
def test_first_caller_is_cancelled_and_forty_others_get_their_own_answers(
    server: ServerProcess, rounds: int
) -> None:
    async def body() -> None:
        async with AsyncVisionClient(server.url, timeout=20.0) as client:

            async def leaving() -> None:
                async for _ in client.classify_many("colours", [colour(59_999)]):
                    pass

            first = asyncio.create_task(leaving())
            for _ in range(rounds):
                await asyncio.sleep(0)
            first.cancel()

            async def other(number: int) -> int:
                [answer] = [
                    answer async for _, answer in client.classify_many("colours", [colour(number)])
                ]
                assert isinstance(answer, pb.ClassifyResponse), answer
                return number_of(answer)

            found = await asyncio.gather(*(other(number) for number in range(40)))
            assert found == list(range(40))
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(asyncio.wait_for(body(), END))


def test_callers_who_leave_at_random_leave_all_others_their_own_answers(
    server: ServerProcess,
) -> None:
    chance = random.Random(0)
    numbers = iter(range(60_000))
    answered = failed = left = 0

    async def many(client: AsyncVisionClient, count: int) -> None:
        nonlocal answered, failed
        wanted = [next(numbers) for _ in range(count)]
        call, model = chance.choice([
            (client.classify_many, "colours"), (client.embed_many, "points"),
        ])  # fmt: skip
        images = (colour(number) for number in wanted)
        answers: AsyncIterator[tuple[object, pb.ClassifyResponse | pb.EmbedResponse | CallFailed]]
        answers = call(model, images, concurrency=chance.choice([1, 4, 64]))  # type: ignore[operator]
        place = 0
        async for _, answer in answers:
            if isinstance(answer, CallFailed):
                assert answer.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
                failed += 1
            else:
                assert number_of(answer) == wanted[place]
                answered += 1
            place += 1
        assert place == count

    async def one(client: AsyncVisionClient) -> None:
        nonlocal answered
        number = next(numbers)
        assert number_of(await client.classify("colours", colour(number))) == number
        answered += 1

    async def caller(client: AsyncVisionClient, hasty: AsyncVisionClient) -> None:
        nonlocal left
        for _ in range(60):
            works: list[Callable[[], Coroutine[None, None, None]]] = [
                lambda: many(client, 1),
                lambda: many(client, 10),
                lambda: many(hasty, 3),
                lambda: one(client),
            ]
            task = asyncio.create_task(chance.choice(works)())
            if chance.random() < 0.5:
                for _ in range(chance.choice([0, 1, 2, 4, 8, 16])):
                    await asyncio.sleep(0)
                if chance.random() < 0.5:
                    await asyncio.wait([task], timeout=chance.random() * 0.02)
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                left += 1
            elif error := task.exception():
                raise error

    async def body() -> None:
        async with (
            AsyncVisionClient(server.url, timeout=20.0, retries=4) as client,
            AsyncVisionClient(server.url, timeout=0.02) as hasty,
        ):
            await asyncio.gather(*(caller(client, hasty) for _ in range(24)))

    # Streams grow old all the time.
    with patch.object(streams.SharedStream.__init__, "__defaults__", (0.2,)):
        asyncio.run(asyncio.wait_for(body(), END))
    assert answered > 200
    assert left > 20


@pytest.mark.parametrize("rounds", [0, 1, 3, 10, 100])
def test_callers_are_told_that_their_client_was_closed(server: ServerProcess, rounds: int) -> None:
    async def body() -> None:
        client = AsyncVisionClient(server.url, timeout=20.0)

        async def many() -> list[pb.ClassifyResponse | CallFailed]:
            images = [colour(number) for number in range(40)]
            return [a async for _, a in client.classify_many("colours", images, concurrency=8)]

        async def alone(call: object) -> object:
            try:
                return await call  # type: ignore[misc]
            except CallFailed as failure:
                return failure

        tasks = [
            asyncio.create_task(many()),
            asyncio.create_task(alone(client.classify("colours", colour(1)))),
            asyncio.create_task(alone(client.models())),
        ]
        for _ in range(rounds):
            await asyncio.sleep(0)
        await client.close()
        found, *others = await asyncio.gather(*tasks)
        assert isinstance(found, list)
        for number, answer in enumerate(found):
            if isinstance(answer, CallFailed):
                assert answer.code == "CANCELLED"
                assert "closed" in answer.message
            else:
                assert number_of(answer) == number
        for other in others:
            assert not isinstance(other, CallFailed) or other.code == "CANCELLED"

    asyncio.run(asyncio.wait_for(body(), END))


def sees(client: VisionClient, numbers: list[int]) -> bool:
    """Whether the answers to these colours are their own."""
    images = [colour(number) for number in numbers]
    answers = [answer for _, answer in client.embed_many("points", images, concurrency=4)]
    return [number_of(a) for a in answers if isinstance(a, pb.EmbedResponse)] == numbers


def test_loop_that_is_left_halfway_leaves_the_client_in_order(server: ServerProcess) -> None:
    with VisionClient(server.url) as client:
        for leave_at in (0, 1, 7):
            images = map(colour, range(1000, 1060))
            for place, _ in enumerate(client.embed_many("points", images, concurrency=4)):
                if place == leave_at:
                    break
            assert sees(client, list(range(40)))


def test_interrupt_in_the_middle_leaves_the_client_in_order(server: ServerProcess) -> None:
    def interrupting(place: int) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        for number in range(20):
            if number == place:
                signal.raise_signal(signal.SIGINT)
            yield colour(1000 + number)

    with VisionClient(server.url) as client:
        for place in (0, 3, 12):
            with pytest.raises(KeyboardInterrupt):
                list(client.embed_many("points", interrupting(place), concurrency=4))
            assert sees(client, list(range(40)))


def test_images_do_not_run_out_of_time_while_their_caller_does_other_work(
    server: ServerProcess,
) -> None:
    with VisionClient(server.url, timeout=0.8) as client:
        assert sees(client, [1])
        images = [colour(number) for number in range(12)]
        found = []
        for place, (_, answer) in enumerate(client.embed_many("points", images, concurrency=6)):
            assert isinstance(answer, pb.EmbedResponse), answer
            found.append(number_of(answer))
            if place in (0, 2, 3):
                time.sleep(0.9)  # the caller's other work, longer than the time of a call
        assert found == list(range(12))

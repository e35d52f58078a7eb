"""Many images over a shared stream, in their order; small images share a message.

A message costs the server more than a small image in it: sixteen images of 3 KB in one message
take less CPU than five in messages of their own.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from protos.gen import vision_pb2 as pb
from serving.client.calls import CallFailed, Tries, failed
from serving.client.images import ImageInput, as_message, each_image
from serving.client.requests import Answer, AnyRequest
from serving.client.streams import SharedStream

# Bytes of images that share a message. Larger delays the first images of a message and saves
# little, since the cost of large images lies in their bytes; smaller sends more messages.
_SHARED_BYTES = 64 << 10
# Images that share a message, at most; a server takes 256. More delay the first of them.
_SHARED_IMAGES = 64
# Messages among which the images under way are divided, at least. With one, the server would idle
# while it travels; more make messages smaller.
_MESSAGES = 2

_Outcomes = list[Answer | CallFailed]


async def answers(
    images: str | Path | Iterable[ImageInput],
    concurrency: int,
    stream: SharedStream[Answer],
    request_for: Callable[[list[pb.Image]], AnyRequest],
    tries: Tries,
) -> AsyncIterator[tuple[ImageInput, Answer | CallFailed]]:
    """Each image with its answer or its failure, in order; `concurrency` images are under way."""
    window: deque[tuple[list[ImageInput], asyncio.Task[_Outcomes[Answer]]]] = deque()
    under_way = 0
    try:
        most = min(_SHARED_IMAGES, max(1, concurrency // _MESSAGES))
        for group in _groups(each_image(images), most):
            messages = [message for _, message in group]
            task = asyncio.create_task(_exchange(messages, stream, request_for, tries))
            window.append(([image for image, _ in group], task))
            under_way += len(group)
            while under_way >= concurrency:
                first, task = window.popleft()
                for pair in zip(first, await task, strict=True):
                    yield pair
                under_way -= len(first)
        while window:
            first, task = window.popleft()
            for pair in zip(first, await task, strict=True):
                yield pair
    finally:
        for _, task in window:
            task.cancel()


def _groups(
    images: Iterator[ImageInput], most: int
) -> Iterator[list[tuple[ImageInput, pb.Image | CallFailed]]]:
    """Groups of images, each of which shares a message. An image that cannot be sent comes as a
    failure in its group."""
    group: list[tuple[ImageInput, pb.Image | CallFailed]] = []
    size = 0
    for image in images:
        message = _message(image)
        added = 0 if isinstance(message, CallFailed) else _size(message)
        if group and (len(group) == most or size + added > _SHARED_BYTES):
            yield group
            group, size = [], 0
        group.append((image, message))
        size += added
    if group:
        yield group


def _message(image: ImageInput) -> pb.Image | CallFailed:
    try:
        return as_message(image)
    except (OSError, ValueError) as error:
        return CallFailed("INVALID_ARGUMENT", f"{image!r}: {error}")
    except TypeError as error:  # it names the value
        return CallFailed("INVALID_ARGUMENT", str(error))


def _size(image: pb.Image) -> int:
    return len(image.encoded) or len(image.raw.rgb) or len(image.raw.grey)


async def _exchange(
    messages: list[pb.Image | CallFailed],
    stream: SharedStream[Answer],
    request_for: Callable[[list[pb.Image]], AnyRequest],
    tries: Tries,
) -> _Outcomes[Answer]:
    """The outcomes of the images that share a message. Images that are refused for the moment
    share the next try."""
    outcomes: dict[int, Answer | CallFailed] = {
        index: message for index, message in enumerate(messages) if isinstance(message, CallFailed)
    }

    async def call(left: float) -> None:
        sent = {
            index: message
            for index, message in enumerate(messages)
            if isinstance(message, pb.Image) and _is_open(outcomes.get(index))
        }
        response = await stream.ask(request_for(list(sent.values())), left)
        check_count(response, len(sent))
        for index, result in zip(sent, response.results, strict=True):
            outcomes[index] = _alone(response, result)
        refused = [o for o in outcomes.values() if isinstance(o, CallFailed) and o.for_now]
        if refused:
            raise max(refused, key=lambda failure: failure.retry_after or 0.0)

    if len(outcomes) < len(messages):
        try:
            await tries.run(call)
        except CallFailed as failure:
            # One image's own failure is its outcome already; a failure of the whole message is the
            # outcome of each image that is still open.
            if failure not in outcomes.values():
                for index in range(len(messages)):
                    if _is_open(outcomes.get(index)):
                        outcomes[index] = failure
    return [outcomes[index] for index in range(len(messages))]


def check_count(
    response: pb.ClassifyResponse | pb.SegmentResponse | pb.EmbedResponse, count: int
) -> None:
    """Raises CallFailed where a response has not one result for each image."""
    if len(response.results) != count:
        raise CallFailed(
            "INTERNAL", f"expected {count} results of the server, got {len(response.results)}"
        )


def _is_open(outcome: Answer | CallFailed | None) -> bool:
    """Whether an image has still to be sent."""
    return outcome is None or (isinstance(outcome, CallFailed) and outcome.for_now)


def _alone(response: Answer, result: Any) -> Answer | CallFailed:
    """One result of a response, as a response of its own, or as its failure."""
    if result.status.code:
        return failed(result.status)
    if len(response.results) == 1:
        return response
    return type(response)(served=response.served, results=[result])

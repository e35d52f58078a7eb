"""A stream of requests, answered in their order."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from serving.server.endpoints.front import Front
from serving.server.rpc.call import caller_of
from serving.server.wire.interface import LARGE_ANSWER, Buffer, Call

# Requests of one stream that may be under way; the next is received when the oldest is answered.
# More fill larger batches, and let one stream hold more memory.
STREAM_WINDOW = 64


class Conversation:
    """Answers the requests of a stream, up to STREAM_WINDOW at a time, until its end or that of the
    server. Large answers are held until they are sent.

    `answer` must not raise: it says in its response that a call failed, and the stream goes on.
    """

    def __init__(
        self,
        front: Front,
        method: str,
        stream: Call,
        answer: Callable[[bytes], Coroutine[Any, Any, Buffer]],
    ) -> None:
        self._front, self._readers, self._budget = front, front.readers, front.budget
        # Its create_task takes a third less time than asyncio.create_task.
        self._loop = asyncio.get_running_loop()
        self._method = method
        self._stream = stream
        self._answer = answer
        self._window: deque[asyncio.Task[Buffer]] = deque()
        # news: a task was added to the window, or the reader ended. place: a task has left it.
        self._news, self._place = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Returns once all requests are answered. Raises Unauthenticated and OverLimit for a caller
        who may open no stream, and what receiving and sending raise."""
        with self._front.stream(self._method, caller_of(self._stream)):
            await self._answer_all()

    async def _answer_all(self) -> None:
        reader = asyncio.create_task(self._read())
        self._readers.add(reader)
        reader.add_done_callback(self._read_all)
        window = self._window
        try:
            while window or not reader.done():
                if window:
                    response = await window[0]
                    try:
                        await self._stream.write(response)
                    finally:
                        window.popleft()
                        self._give_back(response)
                        self._place.set()
                else:
                    self._news.clear()
                    await self._news.wait()
            if not reader.cancelled():
                reader.result()
        finally:
            reader.cancel()
            # Where the caller went away, nobody waits for the tasks that are under way.
            for task in window:
                if not task.cancel() and not task.cancelled() and not task.exception():
                    self._give_back(task.result())

    async def _read(self) -> None:
        while True:
            # Before the request is received, so that each is answered, and held, at once.
            while len(self._window) >= STREAM_WINDOW:
                self._place.clear()
                await self._place.wait()
            if (request := await self._stream.read()) is None:
                return
            self._window.append(self._loop.create_task(self._held(request)))
            self._news.set()

    def _read_all(self, reader: asyncio.Task[None]) -> None:
        self._readers.discard(reader)
        self._news.set()
        if not reader.cancelled():
            reader.exception()  # counts as seen, also where sending fails first

    async def _held(self, request: bytes) -> Buffer:
        response = await self._answer(request)
        if len(response) >= LARGE_ANSWER:
            self._budget.keep("answer", len(response))
        return response

    def _give_back(self, response: Buffer) -> None:
        if len(response) >= LARGE_ANSWER:
            self._budget.give_back("answer", len(response))

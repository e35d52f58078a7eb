"""A stream of grpc.aio that answers, breaks and holds back writes when a test says so."""

import asyncio
from collections import deque
from typing import Any

import grpc

from protos.gen import vision_pb2 as pb

_BROKEN = grpc.StatusCode.UNAVAILABLE


class FakeStream:
    """Ends as grpc.aio's calls do: a write that is cancelled cancels the whole stream, and what is
    cancelled here ends its reader by CancelledError.

    written: requests that came through, oldest first.
    unanswered: those of them that were not answered yet.
    """

    def __init__(self) -> None:
        self.written: list[pb.ClassifyRequest] = []
        self.unanswered: deque[pb.ClassifyRequest] = deque()
        self.cancelled = False
        self.error: Exception | None = None
        self._connected = asyncio.Event()
        self._places = asyncio.Semaphore(0)
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._ended = False

    # What a test does.

    def connect(self) -> None:
        """Lets the first write go on."""
        self._connected.set()

    def let_through(self) -> None:
        """Lets one write end."""
        self._places.release()

    def answer(self, request: pb.ClassifyRequest, **served: Any) -> None:
        """Answers as the server does: with the names of the images, and the id."""
        self.unanswered.remove(request)
        response = pb.ClassifyResponse(served=pb.Served(**{"id": request.options.id, **served}))
        for image in request.images:
            response.results.add().labels.add(name=image.encoded.decode())
        self._answers.put_nowait(response)

    def say(self, response: pb.ClassifyResponse | None) -> None:
        """Sends an answer to nothing; None is one that cannot be parsed."""
        self._answers.put_nowait(response)

    def end(self, error: Exception | None = None) -> None:
        """The server ends the stream, or the connection breaks."""
        if not self._ended:
            self._ended = True
            self.error = error
            self._connected.set()
            self._answers.put_nowait(EOFError())

    @property
    def ended(self) -> bool:
        return self._ended

    # What the client does.

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise asyncio.InvalidStateError("the call is over")
        try:
            await self._connected.wait()
            await self._places.acquire()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._ended:
            raise self.error or asyncio.InvalidStateError("the call is over")
        request = pb.ClassifyRequest.FromString(data)
        self.written.append(request)
        self.unanswered.append(request)

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> pb.ClassifyResponse | None:
        if self.cancelled:
            raise asyncio.CancelledError
        found = await self._answers.get()
        # A message takes the loop several rounds on its way from the socket.
        for _ in range(3):
            await asyncio.sleep(0)
        if self.cancelled:
            raise asyncio.CancelledError
        if isinstance(found, EOFError):
            if self.error is not None:
                raise self.error
            raise StopAsyncIteration
        return found  # type: ignore[no-any-return]

    def cancel(self) -> bool:
        if self._ended:
            return False
        self.cancelled = True
        self.end()
        return True


def broken(
    details: str = "the connection is gone", code: grpc.StatusCode = _BROKEN
) -> grpc.aio.AioRpcError:
    """What a stream ends with."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)

"""The socket of questions and facts: JSON, with bytes behind it where a message has any.

A frame is the length of its JSON in 4 bytes, that of its bytes in 8, and both. What is told may
come at any time; a question gets one answer, in any order.
"""

import asyncio
import itertools
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from serving.base.errors import ModelNotReady, ServingError, Told, restored, told
from serving.remote.records import BadRecord

logger = logging.getLogger(__name__)

_HEAD = struct.Struct("<IQ")
# Bytes of JSON in a frame, and of bytes behind it. A repository of 10,000 models takes some 10 MB,
# a load call may bring files of a whole gRPC message.
_MAX_JSON = 256 << 20
_MAX_BYTES = 1 << 31


class Question(NamedTuple):
    """A question, or a fact that is told.

    what: its name.
    fields: as JSON had them.
    data: the bytes that came along.
    """

    what: str
    fields: dict[str, Any]
    data: bytes


class Control:
    """One end.

    told: called with each fact; BadRecord ends the connection.
    asked: answers a question with a value that JSON can hold. ServingErrors go to the other side.
    """

    def __init__(
        self,
        told: Callable[[Question], None],
        asked: Callable[[Question], Awaitable[Any]],
    ) -> None:
        self._told = told
        self._asked = asked
        self._writer: asyncio.StreamWriter | None = None
        self._opened = asyncio.Event()
        self._numbers = itertools.count()
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self, end: socket.socket) -> str:
        """Serves a socket until its other end is closed; the reason. Open questions then fail."""
        reader, self._writer = await asyncio.open_unix_connection(sock=end)
        self._opened.set()
        try:
            while True:
                self._take(*await _frame(reader))
        except asyncio.IncompleteReadError:
            return "it closed its control socket"
        except OSError as error:
            return f"{error.strerror}"
        except BadRecord as error:
            return f"it sent {error}"
        finally:
            self.close()

    async def wait_open(self) -> None:
        """Returns when `run` has the socket."""
        await self._opened.wait()

    def close(self) -> None:
        """Closes this end. Open questions fail."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for task in self._answering:
            task.cancel()
        gone, self._questions = self._questions, {}
        for future in gone.values():
            if not future.done():
                future.set_exception(_gone())

    def tell(self, what: str, data: bytes = b"", /, **fields: Any) -> None:
        """Tells a fact; nothing where the other side is gone."""
        self._send({"tell": what, **fields}, data)

    async def ask(self, what: str, data: bytes = b"", /, **fields: Any) -> Any:
        """The answer to a question. Raises the ServingError of the other side, and ModelNotReady
        where that is gone."""
        if self._writer is None:
            raise _gone()
        number = next(self._numbers)
        future = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"ask": what, "question": number, **fields}, data)
            return await future
        finally:
            self._questions.pop(number, None)

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        if self._writer is None:
            return
        text = json.dumps(message, default=str).encode()
        self._writer.write(_HEAD.pack(len(text), len(data)) + text)
        if data:
            self._writer.write(data)

    def _take(self, message: dict[str, Any], data: bytes) -> None:
        if "answer" in message:
            future = self._questions.get(_number(message["answer"]))
            if future is None or future.done():
                return
            if "error" in message:
                future.set_exception(_error(message["error"]))
            else:
                future.set_result(message.get("result"))
        elif "ask" in message:
            number = message.pop("question", None)
            question = Question(str(message.pop("ask")), message, data)
            task = asyncio.get_running_loop().create_task(self._answer(number, question))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self._told(Question(str(message.pop("tell", "")), message, data))

    async def _answer(self, number: object, question: Question) -> None:
        try:
            answer = {"result": await self._asked(question)}
        except ServingError as error:
            answer = {"error": told(error)}
        except Exception as error:
            logger.error("question failed", exc_info=error, extra={"question": question.what})
            answer = {"error": told(ServingError("internal error; the server's log says more"))}
        self._send({"answer": number, **answer})


async def _frame(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """Raises BadRecord, IncompleteReadError."""
    length, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > _MAX_JSON or size > _MAX_BYTES:
        raise BadRecord(f"a message of {length} and {size} bytes")
    text = await reader.readexactly(length)
    data = await reader.readexactly(size) if size else b""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"a message that is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadRecord("a message without fields")
    return message, data


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise BadRecord(f"an answer to {value!r:.40}")
    return value


def _error(fields: Any) -> ServingError:
    try:
        code, text, retry, detail = fields
        return restored(Told(code, text, retry, detail))
    except (TypeError, ValueError):
        return ServingError("an error that cannot be read")


def _gone() -> ModelNotReady:
    return ModelNotReady("the engine process has ended; it is started again")

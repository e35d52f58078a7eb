"""A wire by itself, on a thread with an event loop of its own, and small methods on it."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import uvloop

from serving.base.errors import ServingError
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.wire.errors import end_of
from serving.server.wire.interface import Buffer, Call, End, Limits, Method, Wire

MIB = 1 << 20
SERVICE = "/tests.Interop/"
# Seconds in which everything that a test waits for must come.
PATIENCE = 20.0
LIMITS = Limits(
    message=32 * MIB,
    streams=256,
    connections=100,
    per_address=50,
    receive=30.0,
    send=60.0,
    idle=0.0,
    age=0.0,
    age_grace=10.0,
)

Make = Callable[[Limits, MemoryBudget, Copies, FrontMetrics], Wire]


class Wired:
    """A wire that runs.

    cancelled: methods that were.
    begun, ended: methods that did.
    """

    def __init__(self, make: Make, limits: Limits = LIMITS, memory: int = 256 * MIB) -> None:
        self.budget = MemoryBudget(memory)
        self.metrics = FrontMetrics()
        self.cancelled: list[str] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self._make, self._limits = make, limits
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._main)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire = self._make(self._limits, self.budget, Copies(), self.metrics)
        self.port = self.wire.bind("127.0.0.1", 0)
        await self.wire.start(self._methods())
        self._ready.set()
        await self._end.wait()
        await self.wire.stop(0)

    def start(self) -> None:
        """Returns when it takes calls."""
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self) -> None:
        """Ends it."""
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def run(self, work: Awaitable[Any]) -> Any:
        """The result of a coroutine on its event loop."""

        async def done() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(PATIENCE)

    def cut(self, reason: str) -> float:
        """Callers that were cut for a reason."""
        return self.metrics.cut.labels(reason).value

    def wait(self, condition: Callable[[], bool]) -> None:
        """Returns when a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (self.begun[-5:], self.cancelled[-5:])
            time.sleep(0.005)  # the server is another thread, which does not tell

    def _methods(self) -> dict[str, Method]:
        unary = (self.echo, self.fail, self.sleep, self.headers, self.names, self.empty)
        streams = (self.converse, self.total, self.count, self.deaf, self.flood)
        found = {one.__name__: Method(self._ending(one), unary=True) for one in unary}
        found |= {one.__name__: Method(self._ending(one), unary=False) for one in streams}
        return {SERVICE + name: method for name, method in found.items()}

    def _ending(
        self, method: Callable[[Call], Awaitable[Buffer | None]]
    ) -> Callable[[Call], Awaitable[Buffer | None]]:
        name = method.__name__

        async def run(call: Call) -> Buffer | None:
            self.begun.append(name)
            try:
                return await method(call)
            except ServingError as error:
                raise end_of(error) from None
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            finally:
                self.ended.append(name)

        return run

    async def echo(self, call: Call) -> Buffer | None:
        """The message itself."""
        return await call.read()

    async def empty(self, call: Call) -> Buffer:
        """Nothing."""
        await call.read()
        return b""

    async def fail(self, call: Call) -> Buffer:
        """Ends with the code, text and details that the message names."""
        code, text, details = json.loads(await call.read() or b"")
        raise End(grpc.StatusCode[code], text, details.encode("latin-1"))

    async def sleep(self, call: Call) -> Buffer:
        """Does not return."""
        await call.read()
        await asyncio.Event().wait()
        return b""

    async def headers(self, call: Call) -> Buffer:
        """The values under the key that the message names."""
        key = (await call.read() or b"").decode()
        return json.dumps(list(call.metadata(key))).encode()

    async def names(self, call: Call) -> Buffer:
        """Those in the caller's certificate."""
        await call.read()
        return json.dumps(call.certificate).encode()

    async def converse(self, call: Call) -> None:
        """Each message, as it comes."""
        while (message := await call.read()) is not None:
            await call.write(message)

    async def total(self, call: Call) -> Buffer:
        """The sizes of all messages together."""
        size = 0
        while (message := await call.read()) is not None:
            size += len(message)
        return str(size).encode()

    async def count(self, call: Call) -> None:
        """Messages of the sizes that the message lists."""
        for size in json.loads(await call.read() or b"[]"):
            await call.write(bytes(size))

    async def deaf(self, call: Call) -> None:
        """Reads nothing and does not return."""
        await asyncio.Event().wait()

    async def flood(self, call: Call) -> None:
        """Writes without end."""
        await call.read()
        while True:
            await call.write(bytes(100_000))


@contextmanager
def wired(make: Make, limits: Limits = LIMITS, memory: int = 256 * MIB) -> Iterator[Wired]:
    """A wire that runs until the end of the block, at which it must hold no memory."""
    server = Wired(make, limits, memory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
    assert server.budget.used == 0


@contextmanager
def channel_to(target: str, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    """A channel with a connection of its own."""
    own: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.insecure_channel(target, [*own, *options]) as channel:
        yield channel

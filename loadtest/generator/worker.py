"""A generator process: keeps connections, plays its share of each phase, sends records back."""

import asyncio
import gc
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

from loadtest.generator.player import Client, Player, WorkerShare, precise_loop
from loadtest.payloads.draws import Distribution, draws
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from loadtest.wire.messages import Request
from loadtest.wire.rest_client import RestClient, is_rest
from serving.client.tls import ClientTls

# Seconds between two batches of records to the parent: more delays the progress line, less takes
# CPU from the requests.
_REPORT_EVERY = 0.25


@dataclass(frozen=True)
class Workload:
    """The requests of a run and how they are drawn, the same in all phases.

    requests: by URL of the server.
    groups: number of requests and weight of each model.
    deadlines: seconds, 0 for none.
    timeout: longest wait, in seconds, for the answer of a request without a deadline.
    streams: gRPC streams of each worker, 0 for unary calls.
    tls: of servers that speak it.
    trace: share of the requests that are traced.
    headers: sent with every request; they say who calls, and so stand in no log.
    """

    requests: Mapping[str, Sequence[Request]]
    groups: tuple[tuple[int, float], ...]
    deadlines: Distribution
    priorities: Distribution
    seed: int
    timeout: float
    streams: int
    tls: ClientTls | None = None
    trace: float = 0.0
    headers: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Play:
    """Parent to worker: play this share against this server."""

    url: str
    share: WorkerShare


class Stop:
    """Parent to worker: end the phase now."""


class Ready:
    """Worker to parent: started; it connects with the first phase."""


@dataclass(frozen=True)
class Done:
    """Worker to parent: the share is played, and took `cpu` seconds of this process."""

    cpu: float


class _Closable(Client, Protocol):
    async def close(self) -> None: ...


def main(workload: Workload, worker: int, workers: int, parent: Connection) -> None:
    """Runs a worker until the parent hangs up."""
    gc.freeze()
    # A full garbage collection delays requests by milliseconds, and little garbage is cyclic.
    gc.set_threshold(100_000, 20, 1000)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_Worker(workload, worker, workers, parent).serve())


class _Worker:
    def __init__(self, workload: Workload, worker: int, workers: int, parent: Connection) -> None:
        self._workload = workload
        self._parent = parent
        self._clients: dict[str, _Closable] = {}
        self._records: list[bytes] = []
        drawn = draws(
            workload.groups, workload.deadlines, workload.priorities, (workload.seed, worker)
        )
        self._player = Player(drawn, self._records.append, workload.trace)

    async def serve(self) -> None:
        """Plays each share that the parent sends, until it hangs up."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Play | Stop | None] = asyncio.Queue()

        def receive() -> None:
            try:
                message = self._parent.recv()
            except EOFError:
                message = None
                loop.remove_reader(self._parent.fileno())
            if message is None or isinstance(message, Stop):
                self._player.stop()
            if not isinstance(message, Stop):
                messages.put_nowait(message)

        loop.add_reader(self._parent.fileno(), receive)
        self._parent.send(Ready())
        while isinstance(message := await messages.get(), Play):
            await self._play(message)
        for client in self._clients.values():
            await client.close()

    async def _play(self, message: Play) -> None:
        if message.url not in self._clients:
            self._clients[message.url] = self._connect(message.url)
        client = self._clients[message.url]
        cpu = time.process_time()
        ended = threading.Event()
        reporter = threading.Thread(target=self._report, args=(ended,), daemon=True)
        reporter.start()
        await self._player.play(client, self._workload.requests[message.url], message.share)
        ended.set()
        await asyncio.to_thread(reporter.join)
        self._flush()
        self._parent.send(Done(time.process_time() - cpu))

    def _connect(self, url: str) -> _Closable:
        load = self._workload
        if is_rest(url):
            return RestClient(url, load.timeout, load.tls, load.headers)
        if load.streams:
            return StreamClient(url, load.timeout, load.streams, load.tls, load.headers)
        return UnaryClient(url, load.timeout, load.tls, load.headers)

    def _report(self, ended: threading.Event) -> None:
        """Runs in a thread, so that a full pipe does not block the event loop."""
        while not ended.wait(_REPORT_EVERY):
            self._flush()

    def _flush(self) -> None:
        count = len(self._records)
        self._parent.send(b"".join(self._records[:count]))
        del self._records[:count]

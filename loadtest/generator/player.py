"""Sends the requests of a phase when they are due and emits a record for each.

All times are those of the event loop's clock, so that a test with a virtual clock need not wait.
"""

import asyncio
import contextlib
import random
import select
import selectors
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from loadtest.generator.arrivals import Arrivals, due_times, share_of
from loadtest.results import NOT_SENT, UNANSWERED, pack_record
from loadtest.wire.messages import Outcome, Request, failed

# Requests that an open loop which is late sends before the event loop may read answers: more
# delays the answers, fewer cost CPU.
_BREATH = 16
# Seconds by which epoll may wait too long: it rounds up to milliseconds.
_COARSE = 0.001
# Seconds to wait for open requests after `stop`.
_SHORT_GRACE = 1.0


class Client(Protocol):
    """A connection to a server."""

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """Sends a request. Never raises for a call that fails: the outcome has its status."""


@dataclass(frozen=True)
class WorkerShare:
    """The part of a phase that one worker plays.

    start: a time of the event loop's clock.
    worker, workers: number of this worker, and of all.
    max_in_flight: requests that this worker keeps open at most in an open loop.
    requests: requests that all workers send at most in a closed loop; 0 is no limit.
    """

    arrivals: Arrivals
    seconds: float
    start: float
    seed: int
    worker: int
    workers: int
    max_in_flight: int
    requests: int = 0


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond: epoll alone rounds up to the next millisecond, which is as long
    as many answers take. For the last millisecond, select waits on the epoll descriptor."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Events of the descriptors that are ready, after at most `timeout` seconds."""
        if timeout is not None and timeout > 0:
            if timeout > _COARSE:
                # The event loop calls again for the rest.
                return super().select(timeout - _COARSE)
            select.select([self.fileno()], (), (), timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are precise to the microsecond."""
    return asyncio.SelectorEventLoop(PreciseSelector())


class Player:
    """Plays shares of phases, one at a time; `emit` takes the packed record of each request.

    trace: share of the requests that get a trace of their own, which the server is asked to record.
    """

    def __init__(
        self,
        drawn: Iterator[tuple[int, float, int]],
        emit: Callable[[bytes], None],
        trace: float = 0.0,
    ) -> None:
        self._trace = trace
        # Without the seed of the run: no two traces of a collector may have the same id.
        self._random = random.Random()
        self._requests: Sequence[Request] = ()
        self._drawn = drawn
        self._emit = emit
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends the share: nothing more is sent, open requests have _SHORT_GRACE seconds."""
        self._stopped.set()

    async def play(self, client: Client, requests: Sequence[Request], share: WorkerShare) -> None:
        """Plays one share; returns when each request that it sent is answered."""
        self._requests = requests
        self._stopped.clear()
        if share.arrivals.kind == "closed":
            tasks = self._closed(client, share)
        else:
            tasks = await self._open(client, share)
        await self._finish(tasks)

    def _closed(self, client: Client, share: WorkerShare) -> set[asyncio.Task[None]]:
        callers = share.arrivals.concurrency
        mine = range(share.worker, callers, share.workers)
        limit = share.requests or callers * (1 << 62)
        return {
            asyncio.create_task(self._caller(client, share, len(range(i, limit, callers))))
            for i in mine
        }

    async def _caller(self, client: Client, share: WorkerShare, limit: int) -> None:
        """Sends a request as soon as the one before is answered, at most `limit` of them."""
        clock = asyncio.get_running_loop().time
        end = share.start + share.seconds
        await asyncio.sleep(share.start - clock())
        for _ in range(limit):
            now = clock()
            if now >= end or self._stopped.is_set():
                return
            await self._request(client, now - share.start, now, clock)

    async def _open(self, client: Client, share: WorkerShare) -> set[asyncio.Task[None]]:
        """Sends each request when it is due, whether or not those before are answered."""
        clock = asyncio.get_running_loop().time
        open_tasks: set[asyncio.Task[None]] = set()
        times = share_of(due_times(share.arrivals, share.seed), share.worker, share.workers)
        for count, offset in enumerate(times):
            if offset >= share.seconds:
                break
            due = share.start + offset
            wait = due - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            elif count % _BREATH == 0:
                await asyncio.sleep(0)
            if self._stopped.is_set():
                break
            if len(open_tasks) >= share.max_in_flight:
                self._not_sent(offset)
                continue
            task = asyncio.create_task(self._request(client, offset, due, clock))
            open_tasks.add(task)
            task.add_done_callback(open_tasks.discard)
        await self._stopped_within(share.start + share.seconds - clock())
        return open_tasks

    async def _stopped_within(self, seconds: float) -> None:
        """Returns after `seconds`, or at `stop`: a phase whose last request is due early, or that
        has none, still lasts its time, so that CPU and counters are those of a real stretch."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), max(seconds, 0.0))

    async def _request(
        self, client: Client, offset: float, due: float, clock: Callable[[], float]
    ) -> None:
        """Sends a request that was due at `due`, `offset` seconds into the phase."""
        index, deadline, priority = next(self._drawn)
        request = self._requests[index]
        if self._trace and self._random.random() < self._trace:
            ids = self._random.getrandbits(128) or 1, self._random.getrandbits(64) or 1
            request = replace(request, traceparent="00-{:032x}-{:016x}-01".format(*ids))
        sent = clock()
        try:
            answer = await client.call(request, deadline, priority)
        except asyncio.CancelledError:
            answer = failed(UNANSWERED)
        status, right, batch_size, decode, queue, infer, postprocess = answer
        self._emit(
            pack_record(
                offset, sent - due, clock() - due, deadline, status, priority, request.model,
                request.rows, right, batch_size, decode, queue, infer, postprocess,
            )
        )  # fmt: skip

    def _not_sent(self, offset: float) -> None:
        index, deadline, priority = next(self._drawn)
        request = self._requests[index]
        status, right, *stages = failed(NOT_SENT)
        self._emit(
            pack_record(
                offset, 0.0, 0.0, deadline, status, priority, request.model, request.rows, right,
                *stages,
            )
        )  # fmt: skip

    async def _finish(self, tasks: set[asyncio.Task[None]]) -> None:
        """Waits for the open requests, each of which ends by its own timeout; after `stop` at
        most _SHORT_GRACE seconds."""
        everything = asyncio.gather(*tasks)
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait((everything, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            await asyncio.wait(tasks, timeout=_SHORT_GRACE)
            for task in tasks:
                task.cancel()
        stopped.cancel()
        # A task that was cancelled before its first request raises and has nothing to record.
        with contextlib.suppress(asyncio.CancelledError):
            await everything

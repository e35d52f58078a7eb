"""Plays arrivals against a client and emits a record for each request.

All times come from the event loop's clock, so that a loop with a clock of its own (a test) plays a
run without waiting for it.
"""

import asyncio
import contextlib
import select
import selectors
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from loadtest.generator.arrivals import Arrivals, due_times, share_of
from loadtest.results import NOT_SENT, UNANSWERED, pack_record
from loadtest.wire.messages import Outcome, Request, failed

# A pacer that has fallen behind still lets answers be read after this many requests.
_BREATH = 16
# Epoll waits up to so many seconds too long.
_COARSE = 0.001
# How long the answers of a run that was ended early are waited for, in seconds.
_SHORT_GRACE = 1.0


class Client(Protocol):
    """What carries requests to a server."""

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """The answer; one that did not come, or was refused, has the status that says so."""


@dataclass(frozen=True)
class WorkerShare:
    """What one worker does of a phase. `start` is a time of the loop's clock."""

    arrivals: Arrivals
    seconds: float
    start: float
    seed: int
    worker: int
    workers: int
    max_in_flight: int
    # Requests that a closed loop sends at most, 0 is no limit.
    requests: int = 0


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond, where epoll alone rounds up to the next millisecond: as much as
    many answers take. The epoll descriptor can itself be waited for with select."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors.BaseSelector.select."""
        if timeout is not None and timeout > 0:
            if timeout > _COARSE:
                # One system call; the loop comes again for the rest.
                return super().select(timeout - _COARSE)
            select.select([self.fileno()], (), (), timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers keep to the microsecond."""
    return asyncio.SelectorEventLoop(PreciseSelector())


class Player:
    """Plays shares of phases. `emit` takes packed records; `stop` ends what plays early."""

    def __init__(
        self,
        drawn: Iterator[tuple[int, float, int]],
        emit: Callable[[bytes], None],
    ) -> None:
        self._requests: Sequence[Request] = ()
        self._drawn = drawn
        self._emit = emit
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Sends nothing more; what is open is waited for shortly."""
        self._stopped.set()

    async def play(self, client: Client, requests: Sequence[Request], share: WorkerShare) -> None:
        """Plays one share to its end, and until everything that it sent is answered."""
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
        """Sends a request as soon as the one before is answered, `limit` of them at most."""
        clock = asyncio.get_running_loop().time
        end = share.start + share.seconds
        await asyncio.sleep(share.start - clock())
        for _ in range(limit):
            now = clock()
            if now >= end or self._stopped.is_set():
                return
            await self._request(client, now - share.start, now, clock)

    async def _open(self, client: Client, share: WorkerShare) -> set[asyncio.Task[None]]:
        """Sends each request when it is due, whatever became of those before."""
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
        """Sends a request that is due now: `offset` seconds into the phase."""
        index, deadline, priority = next(self._drawn)
        request = self._requests[index]
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
        """Waits for what is open: every request ends by its own timeout. After `stop`, not so
        long."""
        everything = asyncio.gather(*tasks)
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait((everything, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            await asyncio.wait(tasks, timeout=_SHORT_GRACE)
            for task in tasks:
                task.cancel()
        stopped.cancel()
        # One that was cancelled before its first request has nothing to record.
        with contextlib.suppress(asyncio.CancelledError):
            await everything

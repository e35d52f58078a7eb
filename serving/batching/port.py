"""The seam between those who face callers and those who batch."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from serving.base.tensor import Array
from serving.batching.batch import BatchRecord
from serving.batching.ticket import Answer, Done, Ticket


class BatchPort(Protocol):
    """The batches of one served version, as those see them who face its callers.

    A call goes `admit`, then `submit`; `shrink` between them takes rows of it back, `withdraw` ends
    it early. Everything but `close` belongs to
    one event loop.

    latency: seconds of a batch by its rows, as measured at load; empty where nothing was.
    """

    latency: Mapping[int, float]

    def admit(
        self,
        rows: int,
        priority: int,
        deadline: float,
        timeout: float = math.inf,
        caller: int = 0,
    ) -> Ticket:
        """Reserves a place before anything is spent on the call.

        priority: 1 is the most urgent, 0 takes the model's default.
        deadline: when the caller gives up, in monotonic seconds; inf for never.
        timeout: seconds that the caller asks for in place of the model's, which count where they
            are more and its queue policy allows that; inf for none.
        caller: tells the callers apart who share the batches; 0 where nobody does.
        Raises QueueFull, Shed, ModelNotReady.
        """

    async def confirm(self, ticket: Ticket) -> None:
        """Returns when the place is certain, for calls whose inputs cost something to make: batches
        elsewhere may still refuse what `admit` let in. Raises the errors of `admit`."""

    def shrink(self, ticket: Ticket, rows: int) -> None:
        """Gives places of an admitted call back, before it is submitted: it will have `rows`, fewer
        than it was admitted with, and at least one."""

    def submit(self, ticket: Ticket, parts: Sequence[Mapping[str, Array]], done: Done) -> None:
        """Queues an admitted call. Its inputs, [rows, ...] each, may come in parts whose rows
        follow one another.

        done: called with the answer; or with DeadlineExpired at the deadline itself, EngineError
            where the batch failed, ModelNotReady where the model is unloaded first.
        Raises ModelNotReady where it is unloaded already.
        """

    def withdraw(self, ticket: Ticket) -> None:
        """Gives a call up, at any time: it leaves the queue, and no other call feels it. One that
        runs stays in its batch. Its `done` is not called any more. Nothing happens to a call that
        has its outcome."""

    async def drain(self, seconds: float) -> bool:
        """Takes no new calls and waits until the accepted ones are answered.

        Returns False on time-out. Calls that still wait then, or when it is cancelled, fail with
        ModelNotReady.
        """

    def close(self) -> None:
        """Ends what runs the batches, after `drain`. It blocks while one runs. Calls that are left
        fail with ModelNotReady."""

    async def recent_batches(self) -> Sequence[BatchRecord]:
        """The newest batches, oldest first."""

    def stuck_for(self) -> float:
        """Seconds that the longest stuck batch has been running; 0 where none is stuck."""


def submitted(
    port: BatchPort, ticket: Ticket, parts: Sequence[Mapping[str, Array]]
) -> "asyncio.Future[Answer]":
    """Submits a call. Returns the future of its outcome: whoever cancels it withdraws the call."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    port.submit(ticket, parts, partial(_settle, future))
    return future


def _settle(future: "asyncio.Future[Answer]", outcome: Answer | Exception) -> None:
    if future.done():
        return  # its task was cancelled and has not run since
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

"""A version whose batches run in an engine process, as the front sees it."""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from serving.base.errors import ModelNotReady
from serving.base.tensor import Array
from serving.batching.admission import longest_wait
from serving.batching.batch import BatchRecord
from serving.batching.latency import LatencyTable
from serving.batching.port import BatchPort
from serving.batching.ticket import RESERVED, Done, Ticket
from serving.models.facts import ModelFacts
from serving.remote.front.calls import Calls
from serving.remote.front.ticket import RemoteTicket
from serving.remote.tensors import Layout, fixed_layout

if TYPE_CHECKING:
    from serving.remote.front.spread import Spread

# A call that would be in time even if it waited so many times as long as predicted, or in a queue
# of so many times its length, is not asked for: 1 would leave it to chance what is decoded for
# nothing, more asks for more calls, each of which takes the time of two wake-ups.
_MARGIN = 4
# Priority levels that a record can hold.
_MAX_PRIORITY = 0xFFFF


_serials = itertools.count()

# Fetches the newest batches of a version.
Recent = Callable[["RemotePort"], Awaitable[Sequence[BatchRecord]]]


class RemotePort(BatchPort):
    """One version in one engine process.

    number: its name in records; 0 while no engine process serves it.
    successor: the port that has taken the calls of this one over; None where none has.
    spread: the ports of the version in all engine processes; None where there is one.
    serial: its number among all ports, in their order.
    open_rows: rows of calls without an outcome.
    recent: fetches the newest batches.
    """

    def __init__(
        self,
        facts: ModelFacts,
        number: int,
        calls: Calls,
        recent: Recent,
    ) -> None:
        self.facts = facts
        self.latency = facts.latency
        self.number = number
        self.successor: RemotePort | None = None
        self.spread: Spread | None = None
        self.serial = next(_serials)
        self.calls = calls
        self._recent = recent
        self._closed = False
        # Calls without inputs; calls and rows without an outcome.
        self._reserved = self._open = self.open_rows = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._table = LatencyTable(facts.latency) if facts.latency else None
        self._newest = 0.0
        self._inputs: dict[int, Layout | None] = {}
        self._outputs: dict[int, Layout | None] = {}

    # BatchPort.

    def admit(
        self,
        rows: int,
        priority: int,
        deadline: float,
        timeout: float = math.inf,
        caller: int = 0,
    ) -> Ticket:
        """`BatchPort.admit`: refuses what certainly cannot run; `confirm` and `submit` ask."""
        if self.successor is not None:
            return self.successor.admit(rows, priority, deadline, timeout, caller)
        if self._closed:
            raise self._unloaded()
        if self.spread is not None and not self.live and (other := self.elsewhere()):
            return other.admit(rows, priority, deadline, timeout, caller)
        batching = self.facts.config.batching
        level = min(priority or batching.default_priority, batching.priority_levels, _MAX_PRIORITY)
        ticket = self.calls.admit(self, rows, level, deadline, timeout)
        ticket.caller = caller
        self._reserved += 1
        self.entered(ticket)
        return ticket

    async def confirm(self, ticket: Ticket) -> None:
        """`BatchPort.confirm`: asks the engine process, unless the call is far from any limit."""
        assert isinstance(ticket, RemoteTicket)
        if not ticket.port._far_from_limits(ticket):
            await ticket.port.calls.reserve(ticket)

    def shrink(self, ticket: Ticket, rows: int) -> None:
        """`BatchPort.shrink`: the engine process hears of it with the inputs."""
        assert isinstance(ticket, RemoteTicket)
        if ticket.state is RESERVED:
            ticket.port.open_rows += rows - ticket.rows
            ticket.rows = rows

    def submit(self, ticket: Ticket, parts: Sequence[Mapping[str, Array]], done: Done) -> None:
        """`BatchPort.submit`. Raises QueueFull where no memory is left for the inputs."""
        assert isinstance(ticket, RemoteTicket)
        if ticket.state is not RESERVED:
            raise self._unloaded()
        port = ticket.port
        if port.successor is not None or port.spread is not None:
            port._move(ticket)
            port = ticket.port
        try:
            port._check_open()
            port.calls.submit(ticket, parts, done)
        except BaseException:
            self.withdraw(ticket)
            raise
        port._placed()

    def withdraw(self, ticket: Ticket) -> None:
        """`BatchPort.withdraw`."""
        assert isinstance(ticket, RemoteTicket)
        waited = ticket.state is RESERVED
        ticket.port.calls.withdraw(ticket)
        if waited:
            ticket.port.ended(ticket)
            ticket.port._placed()

    async def drain(self, seconds: float) -> bool:
        """`BatchPort.drain`. What the engine process has left, it drains itself."""
        self.retire()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """`BatchPort.close`: ends the calls that wait for an engine process."""
        self.retire()
        self.calls.moved(self, None)

    async def recent_batches(self) -> Sequence[BatchRecord]:
        """`BatchPort.recent_batches`: those of all engine processes that serve the version."""
        if self.spread is None:
            return await self._recent(self)
        found = await asyncio.gather(*(port._recent(port) for port in self.spread.ports))
        return sorted(itertools.chain(*found), key=lambda record: record.started)

    def stuck_for(self) -> float:
        """`BatchPort.stuck_for`: 0, for an engine process with a stuck batch is ended."""
        return 0.0

    @property
    def busy(self) -> bool:
        """Whether calls have no outcome yet."""
        return self._open > 0

    @property
    def live(self) -> bool:
        """Whether an engine process takes its calls now."""
        return self.number != 0 and not self.calls.down

    # Its way through engine processes.

    def retire(self) -> None:
        """Lets no further calls in. The engine process hears when the last has its inputs."""
        if not self._closed:
            self._closed = True
            if not self._reserved and self.number:
                self.calls.left(self.number)

    def lost(self) -> None:
        """The engine process is gone."""
        self.number = 0

    def replaced_by(self, port: "RemotePort | None") -> None:
        """Another engine process serves the version, or none does. Calls go over where it takes
        the same tensors."""
        self._closed = True
        if port is not None and not port.takes_as(self):
            port = None
        self.successor = port
        self.calls.moved(self, port)

    def elsewhere(self) -> "RemotePort | None":
        """The port of another engine process that its calls can go to; None where there is none."""
        return self.spread.beside(self) if self.spread is not None else None

    def takes_as(self, other: "RemotePort") -> bool:
        """Whether it takes the calls of another port."""
        return _tensors(self.facts) == _tensors(other.facts)

    def is_as(self, other: "RemotePort") -> bool:
        """Whether it answers as another port: their files are the same."""
        return self.facts.files == other.facts.files and self.takes_as(other)

    def take(self, ticket: RemoteTicket) -> None:
        """Has its engine process run a call of another one."""
        ticket.port = self
        self.entered(ticket)
        self.calls.take(ticket)

    def _move(self, ticket: RemoteTicket) -> None:
        """Hands a call without inputs to the successor, or elsewhere where nobody takes it here."""
        port = self
        while port.successor is not None:
            port = port.successor
        if not port.live:
            port = port.elsewhere() or port
        if port is self:
            return
        self.ended(ticket)
        self._reserved -= 1
        if port.calls is not self.calls:
            port.calls.renumber(ticket)
        ticket.port = port
        port.entered(ticket)
        port._reserved += 1

    def entered(self, ticket: RemoteTicket) -> None:
        """Counts a call without an outcome."""
        self._open += 1
        self.open_rows += ticket.rows
        self._idle.clear()

    def ended(self, ticket: RemoteTicket) -> None:
        """The call has an outcome, or is another port's."""
        self._open -= 1
        self.open_rows -= ticket.rows
        if not self._open:
            self._idle.set()

    def _check_open(self) -> None:
        """Raises ModelNotReady where no engine process will serve this version any more."""
        if self._closed and not self.number:
            raise self._unloaded()

    def _unloaded(self) -> ModelNotReady:
        return ModelNotReady(f"model {self.facts.name!r} is being unloaded")

    def _placed(self) -> None:
        """A call has its inputs, or will have none."""
        self._reserved -= 1
        if self._closed and not self._reserved and self.number:
            self.calls.left(self.number)

    # Times.

    def ran(self, rows: int, seconds: float) -> None:
        """Corrects predictions by a batch, of which each of its calls tells."""
        if self._table is not None and seconds != self._newest:
            self._newest = seconds
            self._table.observe(rows, seconds)

    def shortest(self) -> float:
        """Seconds of the shortest batch."""
        return self._table.predict(1) if self._table is not None else 0.0

    def _far_from_limits(self, ticket: RemoteTicket) -> bool:
        """Whether the engine process would surely admit a call: by the calls of this front, which
        are all that it has."""
        config, now = self.facts.config, time.monotonic()
        policy = config.batching.policy(ticket.priority)
        required = min(ticket.deadline, now + config.slo)
        if not policy.timeout_delays:
            required = min(required, now + policy.timeout(ticket.timeout))
        if self._open * _MARGIN >= policy.max_queue_size:
            return False
        if required == math.inf:
            return True
        if self._table is None:
            return False
        rows, most = self.open_rows, self.facts.max_rows
        wait = longest_wait(self._table.predict(most), 0.0, rows, self._table, most)
        return _MARGIN * wait <= required - now

    # Memory.

    def input_layout(self, rows: int, first: Mapping[str, Array]) -> Layout | None:
        """Where the inputs of a call lie; None where that has to be described."""
        if rows not in self._inputs:
            facts = self.facts
            self._inputs[rows] = fixed_layout(facts.inputs, rows, batches=facts.batches)
        layout = self._inputs[rows]
        if layout is None or len(layout.places) != len(first):
            return None
        skipped = 1 if self.facts.batches else 0
        for place in layout.places:
            array = first.get(place.name)
            if array is None or array.shape[skipped:] != place.shape[skipped:]:
                return None
        return layout

    def output_layout(self, rows: int) -> Layout | None:
        """Where the outputs of a call lie; None where the engine process describes them."""
        if rows not in self._outputs:
            facts = self.facts
            self._outputs[rows] = fixed_layout(facts.outputs, rows, batches=facts.batches)
        return self._outputs[rows]

    def room(self, rows: int) -> int:
        """Bytes of the outputs of a call; 0 where nobody knows."""
        layout = self.output_layout(rows)
        return layout.size if layout is not None else 0


def _tensors(facts: ModelFacts) -> object:
    return facts.inputs, facts.outputs, facts.max_rows, facts.batches

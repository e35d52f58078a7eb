"""The calls of a front that an engine process runs. Each gets exactly one outcome.

A call that was accepted outlives the engine process: its inputs stay in their slot, and go to the
next process, or at once to another one that serves the version. Calls that were running at the
crash go one at a time, each in a batch of its own; a call that is running at a second crash ends
with an error, for it may be the cause.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from serving.base.errors import DeadlineExpired, EngineRestarts, ModelNotReady, ServingError
from serving.base.metrics import FrontMetrics
from serving.base.tensor import Array
from serving.batching.ticket import (
    ANSWERED,
    CANCELLED,
    QUEUED,
    RESERVED,
    WITHDRAWN,
    Answer,
    Done,
)
from serving.remote import records
from serving.remote.channel import Channel
from serving.remote.front.asking import Asking
from serving.remote.front.ticket import RemoteTicket
from serving.remote.front.waiting import Waiting
from serving.remote.records import Record, pack
from serving.remote.slots import Slab, Slots
from serving.remote.tensors import PAGE, aligned, layout_of, write

if TYPE_CHECKING:
    from serving.remote.front.port import RemotePort

# Seconds that a new call waits for an engine process that is started. Longer saves more calls,
# shorter sends them to another replica sooner.
HOLD_SECONDS = 2.0
# Seconds after its deadline that a call may be answered by the engine process, which expires calls
# itself. Longer leaves more to it, shorter ends calls sooner while it hangs.
_GRACE = 0.05
# Seconds between two looks at deadlines: precision of the above.
_LOOK_SECONDS = 0.1


class Calls:
    """The calls of one engine process and of those after it, on the event loop of their front.

    slots: the memory of all calls of the front.
    down: why nothing runs at the moment; empty while an engine process is connected.
    hopeless: nothing will run any more.
    process: number of the engine process that is, or was, connected.
    expected: returns the seconds until an engine process is likely to serve.
    """

    def __init__(self, slots: Slots, metrics: FrontMetrics, expected: Callable[[], float]) -> None:
        self.slots = slots
        slots.watch(self._send_slab, self._release_slab)
        self.down = "it has not started yet"
        self.hopeless = False
        self.process = 0
        self.expected = expected
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._metrics = metrics
        # Where a submitted call is: the engine process has it, or it waits.
        self._lent: dict[int, RemoteTicket] = {}
        self._waiting = Waiting()
        self._asking = Asking()
        self._looking = False

    # The way of a call.

    def admit(
        self, port: "RemotePort", rows: int, priority: int, deadline: float, timeout: float
    ) -> RemoteTicket:
        """A ticket for a call that is not refused here. Raises ModelNotReady, EngineRestarts."""
        now = time.monotonic()
        if self.down and (self.hopeless or now + self.expected() > deadline):
            raise self._not_ready()
        return RemoteTicket(next(self._numbers), port, rows, priority, now, deadline, timeout)

    async def reserve(self, ticket: RemoteTicket) -> None:
        """Asks the engine process for a place; returns at once while there is none. Raises its
        refusal."""
        if self._channel is None or not ticket.port.number:
            return
        ticket.reserved_by = self.process
        self._channel.send(
            Record(
                records.RESERVE, priority=ticket.priority, model=ticket.port.number,
                call=ticket.number, rows=ticket.rows, deadline=ticket.deadline,
                timeout=ticket.timeout, arrived=ticket.arrived, caller=ticket.caller,
            ).packed()
        )  # fmt: skip
        await self._asking.ask(ticket.number)

    def submit(
        self, ticket: RemoteTicket, parts: Sequence[Mapping[str, Array]], done: Done
    ) -> None:
        """Puts the inputs of a call into a slot and sends it. Raises QueueFull."""
        port = ticket.port
        layout = port.input_layout(ticket.rows, parts[0]) or layout_of(parts)
        inputs = aligned(layout.size, PAGE)
        ticket.room = room = port.room(ticket.rows) or inputs + PAGE
        slot = self.slots.take(inputs + room)
        try:
            write(slot.slab.memory, slot.offset, layout, parts)
        except BaseException:
            self.slots.free(slot)
            raise
        ticket.layout, ticket.slot, ticket.done, ticket.state = layout, slot, done, QUEUED
        ticket.outputs_at = slot.offset + inputs
        if self._channel is not None and port.number:
            self._send(ticket, self._channel)
        else:
            ticket.until, ticket.delayed = ticket.arrived + HOLD_SECONDS, True
            self._waiting.keep(ticket)
            if self.hopeless:
                self._finish(ticket, self._not_ready())
        if not self._looking:
            self._look_again()

    def withdraw(self, ticket: RemoteTicket) -> None:
        """Ends a call without an outcome. Its slot stays lent until the engine process says that
        it does not use it any more."""
        if ticket.state is QUEUED:
            if ticket.number in self._lent:
                self._cancel(ticket)
            else:
                self._settle(ticket)
            ticket.state = CANCELLED
        elif ticket.state is RESERVED:
            ticket.state = WITHDRAWN
            if ticket.reserved_by == self.process:
                self._cancel(ticket)

    def left(self, model: int) -> None:
        """Tells that no call without inputs holds a place of a version any more."""
        if self._channel is not None:
            self._channel.send(Record(records.LEFT, model=model).packed())

    def _send(self, ticket: RemoteTicket, channel: Channel, flags: int = 0) -> None:
        slot = ticket.slot
        self.slots.lend(slot)
        ticket.until = math.inf
        self._lent[ticket.number] = ticket
        if ticket.layout.header:
            flags |= records.DESCRIBED
        if ticket.reserved_by == self.process:
            flags |= records.RESERVED
        channel.send(
            pack(
                records.SUBMIT, flags, ticket.priority, ticket.port.number, ticket.number,
                slot.slab.number, slot.index, slot.generation, ticket.rows, ticket.deadline,
                ticket.timeout, ticket.arrived, ticket.layout.size, ticket.room, ticket.caller,
            )
        )  # fmt: skip

    def _cancel(self, ticket: RemoteTicket) -> None:
        if self._channel is not None:
            self._channel.send(Record(records.CANCEL, call=ticket.number).packed())

    # What comes back.

    def received(self, packet: bytes, files: Sequence[int]) -> None:
        """Takes a packet of the engine process. Raises BadRecord."""
        for record, text in records.unpack(packet):
            kind = record.kind
            if kind == records.ADMITTED:
                self._asking.answered(record.call, None)
            elif kind == records.FAILED and record.call in self._asking:
                self._asking.answered(record.call, records.error_of(text))
            else:
                self._returned(record, text, files)

    def _returned(self, record: Record, text: bytes, files: Sequence[int]) -> None:
        """The engine process is done with a slot."""
        ticket = self._lent.get(record.call)
        if ticket is None or (record.kind == records.ANSWER and not ticket.is_at(record)):
            self._metrics.stale_answers.count()
            return
        if record.kind == records.ANSWER and ticket.state is QUEUED:
            self._finish(ticket, ticket.answer(record, files))
        else:
            self._finish(ticket, ticket.failure(record, text, self.expected()))

    def _finish(self, ticket: RemoteTicket, outcome: Answer | ServingError) -> None:
        """Ends a call, wherever it is, and frees its slot."""
        waited = ticket.state is QUEUED
        self._settle(ticket)
        if waited:
            ticket.state = ANSWERED
            ticket.done(outcome)

    def _settle(self, ticket: RemoteTicket) -> None:
        if self._lent.pop(ticket.number, None) is None:
            self._waiting.remove(ticket)
        self.slots.free(ticket.slot)
        ticket.port.ended(ticket)
        if self._waiting.alone is ticket:
            self._waiting.alone = None
            self._next_alone()

    # Engine processes come and go.

    def connected(self, channel: Channel) -> None:
        """An engine process takes records from now on; of which versions, `bound` tells."""
        self._channel = channel
        self.process += 1
        self.down, self.hopeless = "", False
        for slab in self.slots.slabs.values():
            self._send_slab(slab)

    def disconnected(self, reason: str) -> None:
        """Nothing can be sent any more. The engine process may still write into lent slots."""
        self.down = reason
        self._channel = None
        self._asking.over()

    def died(self, running: Mapping[int, float]) -> None:
        """The engine process is known to be dead, and `running` were in its batches, which had left
        the queue at these monotonic seconds."""
        lent, self._lent = self._lent, {}
        self._waiting.alone = None
        for ticket in lent.values():
            self.slots.reclaim(ticket.slot)
            ticket.delayed = True
            if ticket.state is not QUEUED:
                self._settle(ticket)
            elif ticket.number in running and ticket.crashes:
                ticket.timing.started = running[ticket.number]
                ticket.timing.batch_size = ticket.rows
                self._finish(ticket, ticket.poisonous())
            else:
                ticket.crashes += ticket.number in running
                if not self._leaves(ticket):
                    self._waiting.keep(ticket)

    def gave_up(self, reason: str) -> None:
        """No engine process will run any more: ends all calls that no other one takes."""
        self.down, self.hopeless = reason, True
        for ticket in self._waiting.all():
            if not self._leaves(ticket):
                self._finish(ticket, self._not_ready())

    def bound(self, port: "RemotePort") -> None:
        """The engine process serves a version: sends the calls that wait for it."""
        for ticket in self._waiting.take(port):
            if time.monotonic() + port.shortest() > ticket.deadline or self._channel is None:
                self._finish(ticket, self._not_ready())
            else:
                self._send(ticket, self._channel)
        self._next_alone()

    def moved(self, old: "RemotePort", new: "RemotePort | None") -> None:
        """The calls that wait for one version wait for another that takes the same tensors; where
        there is none, here or elsewhere, they end."""
        for ticket in self._waiting.all():
            if ticket.port is old and not (new is None and self._leaves(ticket)):
                if new is None:
                    reason = f"model {old.facts.name!r} is not served any more"
                    self._finish(ticket, ModelNotReady(reason))
                else:
                    old.ended(ticket)
                    ticket.port = new
                    new.entered(ticket)

    # Calls go from one engine process to another.

    def leave(self, port: "RemotePort") -> None:
        """The calls that wait for a version go where it is served."""
        for ticket in self._waiting.all():
            if ticket.port is port:
                self._leaves(ticket)

    def _leaves(self, ticket: RemoteTicket) -> bool:
        """Hands a call that no engine process has over to another one; whether there is one."""
        old = ticket.port
        new = old.elsewhere()
        if new is None:
            return False
        self._waiting.remove(ticket)
        old.ended(ticket)
        new.take(ticket)
        return True

    def take(self, ticket: RemoteTicket) -> None:
        """Has the engine process run a call of another one."""
        self.renumber(ticket)
        if ticket.crashes or self._channel is None or not ticket.port.number:
            self._waiting.keep(ticket)
            self._next_alone()
        else:
            self._send(ticket, self._channel)
        if not self._looking:
            self._look_again()

    def renumber(self, ticket: RemoteTicket) -> None:
        """Gives a call of another engine process a number here, and no place."""
        ticket.number, ticket.reserved_by = next(self._numbers), 0

    def _next_alone(self) -> None:
        if self._channel is not None and (ticket := self._waiting.take_alone()) is not None:
            self._send(ticket, self._channel, records.ALONE)

    def _look(self) -> None:
        """Ends calls whose time is up: those of an engine process that hangs, or that is gone."""
        now = time.monotonic()
        for ticket in list(self._lent.values()):
            if ticket.deadline + _GRACE < now and ticket.state is QUEUED:
                waited = (now - ticket.arrived) * 1e3
                self._cancel(ticket)
                ticket.state = CANCELLED
                ticket.done(DeadlineExpired(f"deadline passed after {waited:.1f} ms"))
        for ticket in self._waiting.all():
            if min(ticket.deadline, ticket.until) < now:
                self._finish(ticket, self._not_ready())
        self._looking = False
        if self._lent or self._waiting:
            self._look_again()

    def _look_again(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    # Memory.

    def _send_slab(self, slab: Slab) -> None:
        if self._channel is not None:
            record = Record(records.SLAB, slab=slab.number, slot=slab.count, size=slab.size)
            self._channel.send_file(record.packed(), slab.file)

    def _release_slab(self, slab: Slab) -> None:
        if self._channel is not None:
            self._channel.send(Record(records.RELEASE, slab=slab.number).packed())

    # Errors.

    def _not_ready(self) -> ModelNotReady:
        if self.hopeless:
            return ModelNotReady(self.down)
        reason = self.down or "it does not serve the model yet"
        return EngineRestarts(f"the engine process is started again: {reason}", self.expected())

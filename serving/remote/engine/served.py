"""Answers the records of a front: the engine process's side of calls."""

import asyncio
import logging
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence

from serving.base.errors import EngineError, ModelNotReady, ServingError
from serving.base.tensor import Array
from serving.batching.batch import Batch
from serving.batching.batcher import DynamicBatcher
from serving.batching.port import BatchPort
from serving.batching.ticket import QUEUED, RESERVED, RUNNING, WITHDRAWN, Answer, Ticket
from serving.models.facts import ModelFacts
from serving.remote import records
from serving.remote.channel import Channel
from serving.remote.flight import FlightRecorder
from serving.remote.outputs import file_of, fits
from serving.remote.records import BadRecord, Record
from serving.remote.slots import MappedSlab
from serving.remote.tensors import (
    PAGE,
    Layout,
    aligned,
    described_layout,
    fixed_layout,
    layout_of,
    read,
    write,
)

logger = logging.getLogger(__name__)


class ServedVersion:
    """A version under its number.

    max_rows: as its description has it, which computes it.
    left: set once the front lets no further calls in.
    """

    def __init__(self, number: int, facts: ModelFacts, port: BatchPort) -> None:
        self.number, self.facts, self.port = number, facts, port
        self.max_rows = facts.max_rows
        self.left = asyncio.Event()
        self._inputs: dict[int, Layout | None] = {}
        self._outputs: dict[int, Layout | None] = {}

    def output_layout(self, rows: int) -> Layout | None:
        """Where outputs lie; None where they are described."""
        if rows not in self._outputs:
            facts = self.facts
            self._outputs[rows] = fixed_layout(facts.outputs, rows, batches=facts.batches)
        return self._outputs[rows]

    def input_layout(self, rows: int) -> Layout:
        """Where inputs without a description lie. Raises BadRecord where they need one."""
        if rows not in self._inputs:
            facts = self.facts
            self._inputs[rows] = fixed_layout(facts.inputs, rows, batches=facts.batches)
        layout = self._inputs[rows]
        if layout is None:
            raise BadRecord("inputs without a description")
        return layout

    def check(self, inputs: dict[str, Array], rows: int) -> None:
        """Raises BadRecord for inputs that no front lets through. The engine has the last word on
        shapes."""
        names = {spec.name: spec for spec in self.facts.inputs}
        for name, array in inputs.items():
            spec = names.get(name)
            if spec is None or array.dtype != spec.dtype or array.ndim != len(spec.shape):
                raise BadRecord(f"input {name!r:.80} {array.dtype}{list(array.shape)}")
            if self.facts.batches and array.shape[0] != rows:
                raise BadRecord(f"{array.shape[0]} rows instead of {rows}")
        if not inputs:
            raise BadRecord("a call without inputs")


class _Call:
    """A call of the front; called with its outcome."""

    __slots__ = ("base", "cancelled", "end", "number", "record", "slab", "ticket", "version")

    # Once it has inputs: the record that brought them, their memory, and the place of its outputs.
    record: Record
    slab: MappedSlab
    base: int

    def __init__(self, end: "Served", number: int, version: ServedVersion, ticket: Ticket) -> None:
        self.end, self.number, self.version, self.ticket = end, number, version, ticket
        self.cancelled = False

    def __call__(self, outcome: Answer | Exception) -> None:
        self.end.answer(self, outcome)


class Served:
    """The versions that this process serves, and the calls of its front.

    flight: notes what runs.
    cancelled: called with the model of a call that is cancelled while it runs.
    """

    def __init__(
        self,
        flight: FlightRecorder,
        cancelled: Callable[[str], None],
    ) -> None:
        self._flight = flight
        self._cancelled = cancelled
        self.versions: dict[int, ServedVersion] = {}
        self._slabs: dict[int, MappedSlab] = {}
        self._calls: dict[int, _Call] = {}
        self._last = 0

    def connect(self, channel: Channel) -> None:
        """Answers over a channel, whose packets go to `received`."""
        self._send, self._send_file = channel.send, channel.send_file

    def add(self, facts: ModelFacts, port: BatchPort) -> int:
        """Serves a version. Returns its number, which no other one gets."""
        self._last += 1
        number = self._last
        self.versions[number] = ServedVersion(number, facts, port)
        if isinstance(port, DynamicBatcher):
            port.starting = lambda batches: self._flight.running(number, *_calls_in(batches))
        return number

    async def left(self, port: BatchPort, seconds: float) -> None:
        """Returns when the front lets no further calls in to a version, and forgets it."""
        for number, version in self.versions.items():
            if version.port is port:
                try:
                    async with asyncio.timeout(seconds):
                        await version.left.wait()
                except TimeoutError:
                    logger.warning("calls still come", extra={"model": version.facts.name})
                del self.versions[number]
                return

    # Records.

    def received(self, packet: bytes, files: Sequence[int]) -> None:
        """Takes a packet of the front. Raises BadRecord."""
        for record, _ in records.unpack(packet):
            kind = record.kind
            if kind == records.SUBMIT:
                self._submit(record)
            elif kind == records.RESERVE:
                self._reserve(record)
            elif kind == records.CANCEL:
                self._cancel(record.call)
            elif kind == records.SLAB:
                if len(files) != 1 or record.slab in self._slabs:
                    raise BadRecord(f"a slab with {len(files)} files")
                self._slabs[record.slab] = MappedSlab(files[0], record.size, record.slot)
            elif kind == records.RELEASE:
                self._slabs.pop(record.slab, None)
            elif kind == records.LEFT:
                if (version := self.versions.get(record.model)) is not None:
                    version.left.set()
            else:
                raise BadRecord(f"a record of kind {kind}")

    def _reserve(self, record: Record) -> None:
        try:
            self._admit(record)
        except (ServingError, BadRecord) as error:
            self._send(_failed(record.call, error))
        else:
            self._send(Record(records.ADMITTED, call=record.call).packed())

    def _admit(self, record: Record) -> _Call:
        """Raises BadRecord, and the errors of `BatchPort.admit`."""
        number = record.call
        version = self.versions.get(record.model)
        if version is None:
            raise ModelNotReady("the version is being unloaded")
        if not 1 <= record.rows <= version.max_rows or number in self._calls:
            raise BadRecord(f"call {number} of {record.rows} rows")
        if math.isnan(record.deadline) or math.isnan(record.timeout):
            raise BadRecord("a time that is none")
        ticket = version.port.admit(
            record.rows, record.priority, record.deadline, record.timeout, record.caller
        )
        if math.isfinite(record.arrived):
            ticket.arrived = record.arrived
        call = self._calls[number] = _Call(self, number, version, ticket)
        return call

    def _submit(self, record: Record) -> None:
        """Queues a call; an error ends that call alone."""
        call = self._calls.get(record.call) if record.flags & records.RESERVED else None
        if call is not None and call.ticket.state is WITHDRAWN:
            # The version was unloaded before the inputs came.
            del self._calls[record.call]
            call = None
        try:
            if call is None or call.ticket.state is not RESERVED:
                call = self._admit(record)
            elif 1 <= record.rows < call.ticket.rows:
                call.version.port.shrink(call.ticket, record.rows)
            inputs = self._inputs(call, record)
            if record.flags & records.ALONE:
                call.ticket.key = call
            call.version.port.submit(call.ticket, (inputs,), call)
        except Exception as error:
            if call is not None:
                call.version.port.withdraw(call.ticket)
                self._calls.pop(call.number, None)
            if not isinstance(error, ServingError | BadRecord):
                logger.error("call failed", exc_info=error)
            self._send(_failed(record.call, error))

    def _inputs(self, call: _Call, record: Record) -> Mapping[str, Array]:
        """Views of the inputs of a call. Raises BadRecord for memory that is not its own."""
        slab = self._slabs.get(record.slab)
        if slab is None or record.slot >= slab.count:
            raise BadRecord(f"slot {record.slot} of slab {record.slab}")
        begin, size = record.slot * slab.size, aligned(record.size, PAGE)
        if size + record.room > slab.size or record.rows != call.ticket.rows:
            raise BadRecord(f"{size} and {record.room} bytes in a slot of {slab.size}")
        call.record, call.slab, call.base = record, slab, begin + size
        if record.flags & records.DESCRIBED:
            inputs = read(slab.memory, begin, described_layout(slab.memory, begin, record.size))
            call.version.check(inputs, record.rows)
            return inputs
        version = call.version
        layout = version.input_layout(record.rows)
        if layout.size > record.size:
            raise BadRecord(f"inputs of {layout.size} bytes in {record.size}")
        return slab.views.of((version.number, record.slot, record.rows), begin, layout)

    def _cancel(self, number: int) -> None:
        call = self._calls.get(number)
        if call is None:
            return  # its answer is on the way
        ticket = call.ticket
        if ticket.state is RUNNING:
            # The batch reads its slot: it is returned with the outcome.
            call.cancelled = True
            self._cancelled(call.version.facts.name)
            return
        submitted = ticket.state is QUEUED
        call.version.port.withdraw(ticket)
        del self._calls[number]
        if submitted:
            self._send(Record(records.RETURNED, call=number).packed())

    # Outcomes.

    def answer(self, call: _Call, outcome: Answer | Exception) -> None:
        """Sends the outcome of a call."""
        del self._calls[call.number]
        call.ticket.parts = ()  # the slot is the front's again
        if call.cancelled:
            self._send(Record(records.RETURNED, call=call.number).packed())
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._send_answer(call, outcome)
        except Exception as error:
            timing = call.ticket.timing
            self._send(_failed(call.number, error, timing.started, timing.batch_size))

    def _send_answer(self, call: _Call, answer: Answer) -> None:
        outputs, timing, asked = answer.outputs, answer.timing, call.record
        flags = 0
        layout = call.version.output_layout(call.ticket.rows)
        if layout is None or not fits(layout, outputs):
            flags, layout = records.DESCRIBED, layout_of([outputs])
        room = layout.size
        if room > asked.room:
            flags = records.OWN_MEMORY
        if flags == records.OWN_MEMORY:
            file, room = file_of(outputs)
        else:
            write(call.slab.memory, call.base, layout, (outputs,))
        record = records.pack(
            records.ANSWER, flags, 0, 0, call.number, asked.slab, asked.slot, asked.generation,
            timing.batch_size, timing.began, timing.infer, timing.started, room, 0, 0,
        )  # fmt: skip
        if flags != records.OWN_MEMORY:
            self._send(record)
            return
        try:
            self._send_file(record, file)
        finally:
            os.close(file)


def _calls_in(batches: Collection[Batch]) -> tuple[list[int], list[float]]:
    """The calls of batches, and when the batch of each left the queue."""
    calls, started = [], []
    for batch in batches:
        numbers = [each.done.number for each in batch.tickets if isinstance(each.done, _Call)]
        calls += numbers
        started += [batch.started] * len(numbers)
    return calls, started


def _failed(number: int, error: Exception, started: float = 0.0, rows: int = 0) -> bytes:
    if isinstance(error, BadRecord):
        logger.error("bad record", extra={"reason": str(error)})
        error = EngineError(f"the engine process refuses the call: {error}")
    return records.failed(number, error, started, rows)

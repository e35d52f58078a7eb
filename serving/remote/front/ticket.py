"""One call that runs in an engine process."""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.base.errors import (
    DeadlineExpired,
    EngineError,
    EngineRestarts,
    ServingError,
    Shed,
)
from serving.batching.ticket import Answer, Ticket
from serving.remote.outputs import copied, outputs_in, outputs_in_file
from serving.remote.records import (
    ANSWER,
    DESCRIBED,
    FAILED,
    OWN_MEMORY,
    RETURNED,
    BadRecord,
    Record,
    error_of,
)
from serving.remote.slots import Slot
from serving.remote.tensors import Layout

if TYPE_CHECKING:
    from serving.remote.front.port import RemotePort

# Hexadecimal digits of the SHA-256 that names the inputs of a call.
_DIGITS = 16


class RemoteTicket(Ticket):
    """A call that runs elsewhere.

    number: its name in records; no two calls of a front have the same.
    port: the version that it is for.
    timeout: as its caller gave it.
    reserved_by: the engine process that holds a place for it; 0 for none.
    layout: where its inputs lie in the slot.
    outputs_at, room: where the memory for its outputs begins in the slab, and its bytes.
    crashes: engine processes that died while it ran.
    delayed: it has waited for an engine process.
    caller: as `BatchPort.admit` has it.
    until: when it ends if no engine process has it by then.
    """

    __slots__ = (
        "caller", "crashes", "delayed", "layout", "number", "outputs_at", "port", "reserved_by",
        "room", "slot", "timeout", "until",
    )  # fmt: skip

    layout: Layout
    slot: Slot
    outputs_at: int

    def __init__(
        self,
        number: int,
        port: "RemotePort",
        rows: int,
        priority: int,
        now: float,
        deadline: float,
        timeout: float,
    ) -> None:
        super().__init__(rows, priority, now, deadline)
        self.number = number
        self.port = port
        self.timeout = timeout
        self.reserved_by = self.crashes = self.room = self.caller = 0
        self.delayed = False
        self.until = math.inf

    def is_at(self, record: Record) -> bool:
        """Whether a record names the memory of this call."""
        slot = self.slot
        mine = (slot.slab.number, slot.index, slot.generation)
        return (record.slab, record.slot, record.generation) == mine

    def answer(self, record: Record, files: Sequence[int]) -> Answer:
        """Copies its outputs out of the memory that an ANSWER names. Raises BadRecord."""
        if record.flags & OWN_MEMORY:
            if len(files) != 1:
                raise BadRecord(f"{len(files)} files for an answer")
            outputs = outputs_in_file(files[0], record.size)
        else:
            layout, room = None, self.room
            if not record.flags & DESCRIBED:
                layout = self.port.output_layout(self.rows)
            if record.size > room or (layout is not None and layout.size > room):
                raise BadRecord(f"outputs of {record.size} bytes in {room}")
            slab, base = self.slot.slab, self.outputs_at
            if layout is None:
                outputs = outputs_in(slab.memory, base, record.size)
            else:
                key = (self.port.serial, base, self.rows)
                outputs = copied(slab.views.of(key, base, layout))
        timing = self.timing
        timing.started, timing.began = record.arrived, record.deadline
        timing.queue, timing.infer = record.arrived - self.arrived, record.timeout
        timing.batch_size = record.rows
        self.port.ran(record.rows, record.timeout)
        return Answer(outputs, timing)

    def failure(self, record: Record, text: bytes, expected: float) -> ServingError:
        """The error with which a record that brings no answer ends it. Raises BadRecord.

        expected: seconds until an engine process is likely to serve.
        """
        if record.kind in (ANSWER, RETURNED):
            return ServingError("nobody waits for this")
        if record.kind != FAILED:
            raise BadRecord(f"a record of kind {record.kind}")
        self.timing.started, self.timing.batch_size = record.arrived, record.rows
        refusal = error_of(text)
        if self.delayed and isinstance(refusal, Shed | DeadlineExpired):
            # It would have been met if no engine process had died.
            retry = getattr(refusal, "retry_after", expected)
            return EngineRestarts(f"the engine process was started again; {refusal}", retry)
        return refusal

    def poisonous(self) -> EngineError:
        """Its error where two engine processes died while it ran. It names the inputs."""
        at = self.slot.offset
        inputs = self.slot.slab.memory[at : at + self.layout.size]
        digest = hashlib.sha256(inputs).hexdigest()[:_DIGITS]
        return EngineError(
            f"the engine process died twice while it ran this call (inputs with SHA-256 {digest})"
        )

"""The records of the data socket: 64 bytes each, some of them followed by a text.

A field that a kind does not name is 0.

From the front to the engine process:

SLAB: `slab` has `slot` slots of `size` bytes; its file descriptor comes with the packet, alone.
RELEASE: `slab` is not used any more.
RESERVE: may `call` of `rows` enter the queue of `model`? Here as in SUBMIT, `caller` tells callers
    apart.
SUBMIT: the inputs of `call` lie in a slot, `size` bytes, and its outputs may take the `room` bytes
    behind them.
CANCEL: nobody waits for `call`.
LEFT: no call without inputs holds a place of `model` any more; no further one will come.

From the engine process to the front. A SUBMIT gets exactly one of the last three:

ADMITTED: `call` has its place.
ANSWER: the outputs of `call` lie behind its inputs, `size` bytes. `arrived` says when its batch
    left the queue, `deadline` when the engine began, `timeout` holds the seconds in the engine,
    `rows` the rows of the batch. With OWN_MEMORY they lie in a file of their own, whose descriptor
    comes with the packet, alone.
FAILED: an error of `size` bytes follows in the same packet. `arrived` and `rows` tell of the batch
    in which the call was, as in ANSWER; both are 0 where it was in none.
RETURNED: the slot of a cancelled call is not used any more.
"""

import functools
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from serving.base.errors import EngineError, ServingError, Told, restored, told

SLAB, RELEASE, RESERVE, SUBMIT, CANCEL, LEFT = 1, 2, 3, 4, 5, 6
ADMITTED, ANSWER, FAILED, RETURNED = 7, 8, 9, 10

# Flags. RESERVED: the call has a place already. ALONE: it shares no batch. DESCRIBED: its memory
# begins with a description. OWN_MEMORY: its outputs lie in a file of their own.
RESERVED, ALONE, DESCRIBED, OWN_MEMORY = 1, 2, 4, 8

_FORMAT = struct.Struct("<BBHIQIHIHdddIII")
SIZE = _FORMAT.size
# Records of a packet. More make fewer packets; a packet has to fit the buffer of a socket.
MAX_RECORDS = 256
PACKET_BYTES = MAX_RECORDS * SIZE
# Bytes of an error's text in JSON.
_MAX_ERROR = 4096 - SIZE


class BadRecord(Exception):
    """Bytes that no honest peer sends."""


class Record(NamedTuple):
    """One record. `slab`, `slot` and `generation` name the memory; times are monotonic seconds."""

    kind: int
    flags: int = 0
    priority: int = 0
    model: int = 0
    call: int = 0
    slab: int = 0
    slot: int = 0
    generation: int = 0
    rows: int = 0
    deadline: float = math.inf
    timeout: float = math.inf
    arrived: float = 0.0
    size: int = 0
    room: int = 0
    caller: int = 0

    def packed(self) -> bytes:
        """The 64 bytes."""
        return _FORMAT.pack(*self)


pack = _FORMAT.pack
# `Record._make` without its look at the number of fields, which takes as long as the rest.
_made: Callable[[Iterable[Any]], Record] = functools.partial(tuple.__new__, Record)


def unpack(packet: bytes) -> list[tuple[Record, bytes]]:
    """The records of a packet, each with the text that follows it. Raises BadRecord."""
    if not packet or len(packet) % SIZE or len(packet) > PACKET_BYTES:
        raise BadRecord(f"a packet of {len(packet)} bytes")
    if FAILED not in packet[::SIZE]:  # the kinds, and nothing else where no text comes between
        return list(zip(map(_made, _FORMAT.iter_unpack(packet)), itertools.repeat(b"")))
    found: list[tuple[Record, bytes]] = []
    position = 0
    while position < len(packet):
        record = _made(_FORMAT.unpack_from(packet, position))
        position += SIZE
        text = b""
        if record.kind == FAILED:
            text = packet[position : position + record.size]
            if len(text) < record.size:
                raise BadRecord(f"an error of {record.size} bytes is cut short")
            position += -(-record.size // SIZE) * SIZE
        found.append((record, text))
    return found


def failed(call: int, error: Exception, started: float = 0.0, rows: int = 0) -> bytes:
    """A FAILED record and its text. started, rows: of the batch in which the call was."""
    known = error if isinstance(error, ServingError) else EngineError(f"{error!r}")
    code, text, retry, detail = told(known)
    data = b""
    for length in (_MAX_ERROR // 4, 200):
        data = json.dumps([code, text[:length], retry, detail[: length // 2]]).encode()
        if len(data) <= _MAX_ERROR:
            break
    record = Record(FAILED, call=call, size=len(data), arrived=started, rows=rows).packed()
    return record + data.ljust(-(-len(data) // SIZE) * SIZE, b" ")


def error_of(text: bytes) -> ServingError:
    """The error that `failed` packed. Raises BadRecord."""
    try:
        code, said, retry, detail = json.loads(text)
        error = restored(Told(str(code), str(said), retry and float(retry), str(detail)))
    except (ValueError, TypeError, RecursionError) as bad:
        raise BadRecord(f"an error that cannot be read: {text[:80]!r}") from bad
    return error

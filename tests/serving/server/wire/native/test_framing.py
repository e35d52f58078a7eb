"""Messages are what was sent, wherever their bytes were cut."""

import os
import subprocess
import sys

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.wire.interface import End
from serving.server.wire.native.framing import Messages
from tests.support.raw_http2 import message

LIMIT = 1000
MIB = 1 << 20
# Prints the bytes that are counted, by which the process has grown, and that it keeps. In a process
# of its own: others free and take memory too.
GROWING = """
from serving.base.machine.heap import map_large_blocks
from serving.base.machine.memory import own_bytes
from serving.server.wire.native.framing import Messages, prefix

map_large_blocks()
before, piece = own_bytes(), bytes(8192)
growing = [Messages(32 << 20) for _ in range(40)]
for messages in growing:
    messages.add(prefix(31 << 20))
for _ in range(160):
    for messages in growing:
        messages.add(piece)
print(sum(messages.cost for messages in growing), own_bytes() - before)
for messages in growing:
    messages.drop()
print(own_bytes() - before)
"""


def received(data: bytes, cuts: list[int]) -> list[bytes]:
    """What comes out of data in pieces that end at the cuts."""
    messages, found, begin = Messages(LIMIT), [], 0
    for end in [*sorted(cuts), len(data)]:
        messages.add(data[begin:end])
        begin = end
        while messages.whole:
            found.append(messages.take())
    assert messages.cost == 0
    assert not messages.partial
    return found


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_messages_come_out_as_they_went_in(sent: list[bytes], draw: st.DataObject) -> None:
    data = b"".join(map(message, sent))
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=20))
    assert received(data, cuts) == sent


def test_a_message_may_be_cut_at_every_place() -> None:
    sent = [b"", b"abc", b"x" * 20]
    data = b"".join(map(message, sent))
    assert received(data, [*range(len(data))]) == sent
    for first in range(len(data)):
        for second in range(first, len(data)):
            assert received(data, [first, second]) == sent


def test_what_is_kept_is_counted() -> None:
    messages = Messages(LIMIT)
    messages.add(message(b"a" * 100)[:50])
    assert messages.cost == 45
    assert messages.lacking == 55
    messages.drop()
    assert (messages.cost, messages.lacking) == (0, 0)


@pytest.mark.parametrize("size", [70_000, MIB, MIB + 1, 5 * MIB + 3])
def test_a_large_message_comes_out_as_it_went_in(size: int) -> None:
    sent, messages = os.urandom(size), Messages(size)
    data = message(sent) + message(b"next")[:-1]
    for begin in range(0, len(data), 40_000):
        messages.add(data[begin : begin + 40_000])
    assert messages.take() == sent
    assert messages.cost == 3
    messages.add(b"t")
    assert messages.take() == b"next"
    assert messages.cost == 0


def test_large_messages_that_grow_side_by_side_take_what_is_counted() -> None:
    """And give all of it back to the system."""
    measured = subprocess.run(
        [sys.executable, "-c", GROWING], capture_output=True, text=True, timeout=60, check=True
    )
    counted, grown, left = map(int, measured.stdout.split())
    assert counted == 40 * 160 * 8192
    assert grown < counted + 4 * MIB
    assert left < 6 * MIB


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (message(bytes(LIMIT + 1))[:5], grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"\0\xff\xff\xff\xff", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (message(b"abc", flag=1), grpc.StatusCode.UNIMPLEMENTED),
        (message(b"abc", flag=2), grpc.StatusCode.INTERNAL),
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_message_that_may_not_be_is_refused_by_its_prefix(
    data: bytes, code: grpc.StatusCode, cut: int
) -> None:
    messages = Messages(LIMIT)

    def add() -> None:
        messages.add(data[:cut])
        messages.add(data[cut:])

    with pytest.raises(End) as caught:
        add()
    assert caught.value.code is code
    assert messages.cost == 0

"""Messages are what was sent, wherever their bytes were cut."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.wire.interface import End
from serving.server.wire.native.framing import Messages
from tests.support.raw_http2 import message

LIMIT = 1000


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

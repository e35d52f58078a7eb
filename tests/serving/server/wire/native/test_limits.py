"""What callers may take of the native wire, and for how long."""

import asyncio
import base64
import functools
import socket
import threading
from collections import Counter
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.wire.interface import Limits
from serving.server.wire.native.lifetime import Times
from serving.server.wire.native.listener import NativeWire
from tests.support.http2 import PING, frame
from tests.support.raw_http2 import RawClient, message
from tests.support.wired import LIMITS, MIB, SERVICE, Wired, channel_to, wired

OK = grpc.StatusCode.OK.value[0]
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
quick = functools.partial(
    NativeWire, times=Times(sweep=0.02, handshake=0.2, ping=0.1, ping_timeout=0.1, linger=0.2)
)
patient = functools.partial(NativeWire, times=Times(sweep=0.02))
OTHER = "127.0.0.9"


def echoes(server: Wired) -> None:
    """Another caller is answered."""
    with RawClient(server.port) as client:
        assert client.status(client.call(message(b"on"))) == (OK, "")


def test_bytes_that_have_come_are_held_until_they_are_read_or_given_up() -> None:
    with wired(NativeWire) as server, RawClient(server.port) as client:
        sent = bytes(700_000)
        streams = [
            client.call(message(sent)[:-1], path=path, end=False) for path in ("echo", "converse")
        ]
        client.until(lambda: server.budget.held("message") >= 2 * len(sent))
        assert server.budget.held("message") < 2 * len(sent) + 20_000
        client.reset(streams[0])
        server.wait(lambda: server.budget.held("message") < len(sent) + 20_000)
        client.send(streams[1], b"\0", end=True)
        assert client.status(streams[1]) == (OK, "")
        server.wait(lambda: server.budget.used == 0)


def test_a_large_message_comes_as_far_as_memory_permits() -> None:
    """One that finds none waits, and is refused with a delay; small ones find what it leaves."""
    with wired(patient, memory=8 * MIB) as server, RawClient(server.port, source=OTHER) as client:
        stream = client.call(message(bytes(30 * MIB)), end=False)
        code, text = client.status(stream)
        assert code == EXHAUSTED
        assert "memory" in text
        details = grpc_details(client.headers[stream][b"grpc-status-details-bin"])
        assert details.retry_delay.ToMilliseconds() > 0
        assert server.cut("memory") == 1
        server.wait(lambda: server.budget.used < MIB)
        echoes(server)


def grpc_details(value: bytes) -> Any:
    status: Any = status_pb2.Status.FromString(base64.b64decode(value + b"=="))
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    return info


def test_one_address_does_not_take_the_memory_of_others() -> None:
    with wired(patient, memory=16 * MIB) as server:
        attackers = [RawClient(server.port, source=OTHER) for _ in range(8)]
        try:
            # Messages below the size that waits for memory, but for their last byte.
            part = message(bytes(MIB - 9))[:-1]
            sent = [(one, one.call(part, end=False)) for one in attackers for _ in range(4)]
            while not server.cut("memory"):
                for one in attackers:
                    one.read()
            echoes(server)
            with channel_to(server.url) as channel:
                method: Any = channel.unary_unary(SERVICE + "echo")
                assert len(method(bytes(800_000), timeout=10)) == 800_000
            refused = [one.status(stream)[0] for one, stream in sent if stream in one.ended]
            assert set(refused) <= {EXHAUSTED}
            assert server.budget.used <= server.budget.limit
        finally:
            for one in attackers:
                one.socket.close()
        server.wait(lambda: server.budget.used == 0)


def test_small_messages_come_also_while_nothing_is_left() -> None:
    """So that methods refuse them one by one."""
    with wired(patient, memory=MIB) as server, RawClient(server.port) as client:
        server.budget.take("batch", MIB)
        stream = client.call(message(b"abc"), path="converse")
        assert client.status(stream) == (OK, "")
        assert client.status(client.call(message(bytes(100_000))))[0] == EXHAUSTED
        server.budget.give_back("batch", MIB)


def test_calls_themselves_are_held_in_memory() -> None:
    limits = LIMITS._replace(streams=1000)
    with wired(patient, limits, MIB) as server, RawClient(server.port, source=OTHER) as client:
        client.until(lambda: client.may_open > 400)
        streams = [client.call(message(b"a"), path="sleep") for _ in range(400)]
        client.until(lambda: client.ended)
        code, text = client.status(min(client.ended))
        assert code == EXHAUSTED
        assert "memory" in text
        for stream in streams:
            client.reset(stream)
        server.wait(lambda: server.budget.used == 0)


@pytest.mark.parametrize("path", ["echo", "converse"])
def test_a_message_that_does_not_come_ends_its_call(path: str) -> None:
    limits = LIMITS._replace(receive=0.1)
    with wired(patient, limits) as server, RawClient(server.port) as client:
        stream = client.call(message(b"abc")[:-1], path=path, end=False)
        assert client.status(stream)[0] == DEADLINE
        assert server.cut("receive") == 1


def test_a_stream_may_wait_between_messages_as_long_as_it_likes() -> None:
    limits = LIMITS._replace(receive=0.1)
    with wired(patient, limits) as server, RawClient(server.port) as client:
        waiting = client.call(message(b"abc"), path="converse", end=False)
        late = client.call(b"", path="echo", end=False)
        assert client.status(late)[0] == DEADLINE
        # It has waited for as long as the other.
        client.send(waiting, message(b"def"), end=True)
        assert client.status(waiting) == (OK, "")
        assert client.data[waiting] == message(b"abc") + message(b"def")


@pytest.mark.parametrize("path", ["flood", "echo"])
def test_an_answer_that_nobody_reads_ends_its_call(path: str) -> None:
    limits = LIMITS._replace(send=0.1)
    with wired(patient, limits) as server, RawClient(server.port, window=0) as client:
        stream = client.call(message(bytes(100_000)), path=path)
        client.until(lambda: stream in client.resets)
        assert server.cut("send") == 1
        server.wait(lambda: server.budget.used == 0)


def test_a_connection_that_reads_nothing_is_closed() -> None:
    limits = LIMITS._replace(send=0.2)
    with wired(patient, limits) as server, RawClient(server.port, window=1 << 30) as client:
        # More than the system takes for a reader.
        for _ in range(4):
            client.call(message(b"[" + b"1000000," * 20 + b"1]"), path="count")
        server.wait(lambda: server.cut("send") > 0)
        server.wait(lambda: server.budget.used == 0)


def test_an_idle_connection_is_told_and_closed() -> None:
    limits = LIMITS._replace(idle=0.1)
    with wired(patient, limits) as server, RawClient(server.port) as client:
        assert client.status(client.call(message(b"a"))) == (OK, "")
        client.until(lambda: client.closed)
        # Calls that were on their way would have been answered.
        assert client.goaways[0] == (1 << 31) - 1


def test_calls_of_an_old_connection_go_on_until_their_grace_ends() -> None:
    limits = LIMITS._replace(age=0.1, age_grace=0.3)
    with wired(patient, limits) as server, RawClient(server.port) as client:
        waiting = client.call(message(b"a"), path="sleep")
        client.until(lambda: len(client.goaways) == 2)
        assert waiting not in client.ended
        assert client.status(waiting)[0] == UNAVAILABLE
        client.until(lambda: client.closed)
        server.wait(lambda: server.cancelled == ["sleep"])


def test_no_call_is_lost_as_connections_grow_old() -> None:
    limits = LIMITS._replace(age=0.05)
    with wired(patient, limits) as server, channel_to(server.url) as channel:
        method: Any = channel.unary_unary(SERVICE + "echo")
        for number in range(400):
            assert method(b"%d" % number, timeout=10) == b"%d" % number


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM"])
def test_a_connection_that_does_not_speak_is_closed(data: bytes) -> None:
    with wired(quick) as server, socket.create_connection(("127.0.0.1", server.port), 10) as mute:
        mute.sendall(data)
        mute.settimeout(10)
        while mute.recv(1000):
            pass


def test_a_caller_who_has_gone_without_a_word_is_noticed() -> None:
    with wired(quick) as server:
        with RawClient(server.port, acknowledges=False) as gone:
            gone.call(message(b"a"), path="sleep")
            gone.until(lambda: gone.closed)
            server.wait(lambda: server.cancelled == ["sleep"])
        with RawClient(server.port) as silent:
            stream = silent.call(message(b"a"), (b"grpc-timeout", b"500m"), path="sleep")
            # It answers pings, and nothing else.
            assert silent.status(stream)[0] == DEADLINE


def test_callers_may_ping_often() -> None:
    with wired(NativeWire) as server, RawClient(server.port) as client:
        client.push(frame(PING, 0, 0, bytes(8)) * 900)
        assert client.status(client.call(message(b"a"))) == (OK, "")


@pytest.mark.parametrize("limits", [LIMITS._replace(per_address=3), LIMITS._replace(connections=3)])
def test_connections_are_bounded(limits: Limits) -> None:
    with wired(NativeWire, limits) as server:
        held = [RawClient(server.port) for _ in range(3)]
        for one in held:
            assert one.status(one.call(message(b"a"))) == (OK, "")
        with RawClient(server.port) as fourth:
            fourth.until(lambda: fourth.closed)
        assert server.cut("connections") == 1
        if limits.per_address == 3:
            with RawClient(server.port, source=OTHER) as other:
                assert other.status(other.call(message(b"a"))) == (OK, "")
        held.pop().socket.close()
        server.wait(lambda: len(connections(server)) == 2)
        echoes(server)
        for one in held:
            one.socket.close()


def connections(server: Wired) -> Any:
    wire: Any = server.wire
    return wire._connections


def test_streams_beyond_the_limit_wait_for_the_caller() -> None:
    with wired(NativeWire, LIMITS._replace(streams=2)) as server, RawClient(server.port) as client:
        client.until(lambda: client.may_open == 2)
        first = client.call(message(b"a"), path="sleep")
        client.call(message(b"a"), path="sleep")
        third = client.call(message(b"a"))
        server.wait(lambda: len(server.begun) == 2)
        client.reset(first)
        assert third not in client.ended


def test_every_call_that_began_is_answered_as_the_server_stops() -> None:
    """Callers who are told in time take their calls elsewhere; those that began are answered."""
    server = Wired(NativeWire)
    server.start()
    tally, under_way = Counter[str](), threading.Event()

    def hammer() -> None:
        with channel_to(server.url, ("grpc.enable_retries", 0)) as channel:
            method: Any = channel.unary_unary(SERVICE + "echo")
            while True:
                try:
                    method(b"x", timeout=10)
                    tally["OK"] += 1
                    if tally["OK"] > 300:
                        under_way.set()
                except grpc.RpcError as error:
                    failed: Any = error
                    tally[failed.details()] += 1
                    return

    callers = [threading.Thread(target=hammer) for _ in range(4)]
    for caller in callers:
        caller.start()
    assert under_way.wait(20)
    server.run(server.wire.stop(10))
    for caller in callers:
        caller.join()
    server.stop()
    assert tally["OK"] == server.begun.count("echo")
    assert server.budget.used == 0


def test_calls_that_are_left_are_unavailable_when_the_grace_ends() -> None:
    server = Wired(NativeWire)
    server.start()
    with RawClient(server.port) as client:
        stream = client.call(message(b"a"), path="sleep")
        server.wait(lambda: server.begun == ["sleep"])
        server.stop()
        assert client.status(stream)[0] == UNAVAILABLE
    assert server.cancelled == ["sleep"]
    assert server.budget.used == 0


def test_a_fault_of_one_connection_touches_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with wired(NativeWire) as server, RawClient(server.port) as honest:
        stream = honest.call(message(b"a"), path="converse", end=False)
        for fault in (frame(0, 0, 99, b"x"), frame(4, 0, 0, b"x"), bytes(100), frame(1, 4, 1, b"")):
            with RawClient(server.port) as client:
                client.call(message(b"a"), path="sleep")
                client.push(fault)
                client.until(lambda client=client: client.closed)  # type: ignore[misc]
        honest.send(stream, b"", end=True)
        assert honest.status(stream) == (OK, "")
        server.wait(lambda: len(server.cancelled) == server.begun.count("sleep"))
    assert caplog.records == []


def test_it_listens_on_both_families() -> None:
    async def body() -> None:
        wire = NativeWire(LIMITS, MemoryBudget(MIB), Copies(), FrontMetrics())
        port = wire.bind("[::]", 0)
        await wire.start({})
        for address in ("127.0.0.1", "[::1]"):
            async with grpc.aio.insecure_channel(f"{address}:{port}") as channel:
                method: Any = channel.unary_unary("/x/y")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await method(b"", timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await wire.stop(0)

    asyncio.run(body())


def test_a_connection_that_sends_without_end_lets_others_have_their_turn() -> None:
    with wired(NativeWire) as server:
        over = threading.Event()

        def flood() -> None:
            with RawClient(server.port, source=OTHER, acknowledges=False) as client:
                stream = client.call(message(b"a"), path="sleep", end=False)
                data = frame(8, 0, stream, (1).to_bytes(4, "big")) * 5_000
                while not over.is_set() and not client.closed:
                    client.push(data)

        thread = threading.Thread(target=flood)
        thread.start()
        server.wait(lambda: server.begun == ["sleep"])
        for _ in range(20):
            echoes(server)
        over.set()
        thread.join()

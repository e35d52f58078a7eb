"""TLS of gRPC's port, on both wires."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.client import ClientTls
from serving.server.config import StartError
from serving.server.config_sources import load_config
from serving.server.wire import wire_for
from serving.server.wire.native.lifetime import Times
from serving.server.wire.native.listener import NativeWire
from tests.support.certified import CLIENT_NAMES, Certified
from tests.support.wired import LIMITS, MIB, PATIENCE, SERVICE, Make, Wired, wired


@pytest.fixture
def made(tmp_path: Path) -> Certified:
    return Certified(tmp_path / "tls")


@pytest.fixture
def secured(wire: str, made: Certified) -> Iterator[Wired]:
    """Asks callers for no certificate."""
    with wired(making(made.certificates())) as running:
        assert running.wire.name == wire
        yield running


@pytest.fixture
def mutual(wire: str, made: Certified) -> Iterator[Wired]:
    """Takes callers with a certificate only."""
    with wired(making(made.certificates(mutual=True))) as running:
        assert running.wire.name == wire
        yield running


def making(certificates: Any) -> Make:
    config = load_config({"model_repository": "."})
    return lambda _, budget, copies, metrics: wire_for(
        config, budget, copies, metrics, certificates
    )


@contextmanager
def channel_to(server: Wired, tls: ClientTls, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    own: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
    ]
    with grpc.secure_channel(server.url, tls.credentials(), [*own, *options]) as channel:
        yield channel


def unary(channel: grpc.Channel, name: str, message: bytes) -> bytes:
    method: Any = channel.unary_unary(SERVICE + name)
    answer: bytes = method(message, timeout=PATIENCE)
    return answer


def refused(server: Wired, tls: ClientTls) -> bool:
    with channel_to(server, tls) as channel, pytest.raises(grpc.RpcError) as caught:
        unary(channel, "echo", b"a")
    error: Any = caught.value
    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)


def hello(server: Wired, tls: ClientTls, *alpn: str) -> ssl.SSLSocket:
    """A connection of Python's ssl, whose handshake is over on this side."""
    context = tls.context()
    if alpn:
        context.set_alpn_protocols(alpn)
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    return context.wrap_socket(connection, server_hostname="localhost")


def ended(connection: socket.socket) -> bool:
    """Whether the other side ends it, whatever it says before."""
    said(connection)
    return True


def said(connection: socket.socket) -> bytes:
    """All that the other side says until it ends the connection."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except (ssl.SSLError, ConnectionResetError):
        return found
    return found


def test_messages_of_all_sizes_come_and_go(secured: Wired, made: Certified) -> None:
    with channel_to(secured, made.trusting) as channel:
        for size in (0, 1, 16 << 10, 300_000, 31 * MIB):
            assert unary(channel, "echo", bytes(size)) == bytes(size)


def test_streams_run_both_ways(secured: Wired, made: Certified) -> None:
    sizes = [1, 70_000, 3, 5 * MIB] * 5
    with channel_to(secured, made.trusting) as channel:
        total: Any = channel.stream_unary(SERVICE + "total")
        assert total((bytes(size) for size in sizes), timeout=PATIENCE) == b"%d" % sum(sizes)
        count: Any = channel.unary_stream(SERVICE + "count")
        answers = count(json.dumps(sizes).encode(), timeout=PATIENCE)
        assert [len(answer) for answer in answers] == sizes


def test_a_caller_with_a_certificate_comes_in_and_the_method_knows_its_names(
    mutual: Wired, made: Certified
) -> None:
    with channel_to(mutual, made.tls) as channel:
        assert tuple(json.loads(unary(channel, "names", b""))) == CLIENT_NAMES


def test_a_caller_of_a_port_that_asks_for_no_certificate_has_no_names(
    secured: Wired, made: Certified
) -> None:
    with channel_to(secured, made.tls) as channel:
        assert json.loads(unary(channel, "names", b"")) is None


def test_callers_without_a_certificate_and_with_a_strangers_are_refused(
    mutual: Wired, made: Certified
) -> None:
    assert refused(mutual, made.trusting)
    assert refused(mutual, made.stranger)
    assert mutual.begun == []


def test_a_renewed_certificate_goes_to_new_connections_and_old_ones_stay(
    wire: str, made: Certified
) -> None:
    # A new authority shows which certificate a connection has got.
    certificates = made.certificates()
    with wired(making(certificates)) as server:
        before = made.folder / "before.pem"
        before.write_bytes(made.ca.read_bytes())
        with channel_to(server, ClientTls(before)) as old:
            assert unary(old, "echo", b"a") == b"a"
            made.other_authority()
            certificates.renew()
            assert refused(server, ClientTls(before))
            with channel_to(server, made.trusting) as new:
                assert unary(new, "echo", b"b") == b"b"
            assert unary(old, "echo", b"c") == b"c"


def test_a_new_authority_of_callers_counts_for_new_connections(wire: str, made: Certified) -> None:
    certificates = made.certificates(mutual=True)
    with wired(making(certificates)) as server, channel_to(server, made.tls) as old:
        trust = made.folder / "trust.pem"
        trust.write_bytes(made.ca.read_bytes())
        before = ClientTls(trust, made.tls.cert, made.tls.key)
        assert unary(old, "echo", b"a") == b"a"
        made.ca.write_bytes(made.strangers_authority)
        certificates.renew()
        assert refused(server, before)
        assert unary(old, "echo", b"b") == b"b"
        with channel_to(server, ClientTls(trust, made.stranger.cert, made.stranger.key)) as new:
            assert unary(new, "echo", b"c") == b"c"


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(1000),
        b"\x16\x03\x01\x00\x05hello",
    ],
)
def test_callers_who_speak_no_tls_are_closed_and_leave_no_traceback(
    secured: Wired, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), PATIENCE) as connection:
        connection.sendall(first)
        assert ended(connection)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_caller_of_plain_http_reads_what_to_do(made: Certified) -> None:
    with (
        wired(native(made)) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_older_than_1_2_is_refused(secured: Wired, made: Certified) -> None:
    context = made.trusting.context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", secured.port), PATIENCE) as connection,
        pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|UNEXPECTED_EOF"),
    ):
        context.wrap_socket(connection, server_hostname="localhost")


def test_a_caller_who_does_not_agree_on_http2_is_closed(secured: Wired, made: Certified) -> None:
    for alpn in ((), ("http/1.1",)):
        try:
            with hello(secured, made.trusting, *alpn) as connection:
                assert said(connection) == b""
        except (ssl.SSLError, ConnectionResetError):
            continue


def test_optional_certificates_are_the_native_wires_alone(made: Certified) -> None:
    certificates = made.certificates(mutual=True, required=False)
    with wired(native(made, certificates=certificates)) as server:
        with channel_to(server, made.tls) as channel:
            assert tuple(json.loads(unary(channel, "names", b""))) == CLIENT_NAMES
        with channel_to(server, made.trusting) as channel:
            assert json.loads(unary(channel, "names", b"")) is None
        assert refused(server, made.stranger)
    config = load_config({"model_repository": ".", "wire": "grpcio"})
    expected = "^--tls-client-auth optional: the grpcio wire .*; --wire native takes both"
    with pytest.raises(StartError, match=expected):
        wire_for(config, server.budget, server.wire.copies, server.metrics, certificates)


# The native wire's own stream of TLS.


def native(
    made: Certified, certificates: Any = None, times: Times | None = None, **limits: Any
) -> Make:
    chosen = certificates or made.certificates()
    return lambda _, budget, copies, metrics: NativeWire(
        LIMITS._replace(**limits), budget, copies, metrics, times or Times(), chosen
    )


def test_handshakes_that_do_not_end_count_as_connections_and_are_cut(made: Certified) -> None:
    times = Times(sweep=0.02, handshake=0.5)
    with wired(native(made, times=times, per_address=3)) as server:
        address = ("127.0.0.1", server.port)
        waiting = [socket.create_connection(address, PATIENCE) for _ in range(3)]
        waiting[0].sendall(b"\x16\x03\x01\x02")  # the begin of a greeting
        assert server.cut("connections") == 0
        with socket.create_connection(address, PATIENCE) as fourth:
            assert ended(fourth)
        assert server.cut("connections") == 1
        for connection in waiting:
            assert ended(connection)
            connection.close()
        with channel_to(server, made.trusting) as channel:
            assert unary(channel, "echo", b"a") == b"a"


def test_a_handshake_with_many_certificates_comes_to_its_end(made: Certified) -> None:
    assert made.tls.cert is not None
    chain = made.folder / "chain.pem"
    chain.write_bytes(Path(made.tls.cert).read_bytes() + 120 * made.strangers_authority)
    tls = ClientTls(made.ca, chain, made.tls.key)
    make = native(made, made.certificates(mutual=True))
    with wired(make) as server, channel_to(server, tls) as channel:
        assert tuple(json.loads(unary(channel, "names", b""))) == CLIENT_NAMES


def test_a_failed_handshake_is_counted(made: Certified) -> None:
    with wired(native(made)) as server:
        other = made.folder / "other.pem"
        other.write_bytes(made.strangers_authority)
        with pytest.raises(ssl.SSLError):
            hello(server, ClientTls(other))
        server.wait(lambda: server.cut("tls") == 1)


def test_many_tiny_records_are_read_in_turns_and_lose_nothing(made: Certified) -> None:
    context = made.trusting.context()
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with (
        wired(native(made)) as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
    ):

        def exchanged(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    done = step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(1 << 16))
                else:
                    connection.sendall(outgoing.read())
                    return done

        exchanged(tls.do_handshake)
        greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        ping = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
        for byte in greeting + 60 * ping:
            tls.write(bytes([byte]))
        answered = b""
        while answered.count(b"12345678") < 60:
            answered += exchanged(lambda: tls.read(1 << 16))


def test_an_answer_that_nobody_reads_is_seen_and_cut(made: Certified) -> None:
    times = Times(sweep=0.02)
    make = native(made, times=times, send=0.3)
    with wired(make) as server, channel_to(server, made.trusting) as channel:
        flood: Any = channel.unary_stream(SERVICE + "flood")
        unread = flood(b"", timeout=PATIENCE)
        next(unread)
        server.wait(lambda: server.cut("send") == 1)
        unread.cancel()


def test_all_that_was_written_comes_before_the_end(made: Certified) -> None:
    server = Wired(native(made))
    server.start()
    with channel_to(server, made.trusting) as channel:
        answers: Callable[..., Any] = channel.unary_stream(SERVICE + "count")
        coming = answers(json.dumps([MIB] * 8).encode(), timeout=PATIENCE)
        assert len(next(coming)) == MIB
        rest = [len(answer) for answer in coming]
        server.stop()
    assert rest == [MIB] * 7
    assert server.budget.used == 0

"""Callers of the REST port that stall, send too much, or read nothing; after each the server serves
others, and has its memory and its connections back."""

import contextlib
import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.beside import LoopProbe
from tests.support.identity import publish_identity
from tests.support.limited import LimitedServer
from tests.support.process import ServerProcess
from tests.support.raw_http import (
    answer_of,
    ask,
    connected,
    error_of,
    is_closed,
    status_of,
    wait_until,
)

INFER = "POST /v2/models/echo/infer HTTP/1.1\r\nHost: localhost\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
MIB = 1 << 20
# The limits of the server, in seconds: short, and each other than the rest.
HEAD, IDLE, TRANSFER, STALL = 0.6, 1.2, 1.0, 0.5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[LimitedServer]:
    """A server with short limits, of a model that gives back what it gets."""
    repository = tmp_path_factory.mktemp("echo")
    publish_identity(repository, "echo", ["UINT8", "FP32"])
    flags = [
        f"--http-head-seconds={HEAD}",
        f"--http-idle-seconds={IDLE}",
        f"--http-transfer-seconds={TRANSFER}",
        f"--http-stall-seconds={STALL}",
        "--rest-timeout-seconds=5",
        "--allow-ungated",
        "--http-hosts=front.example, *.inner.example",
    ]
    # 60 % of the limit, and 100 MiB more than that for what glibc keeps of large tensors.
    server = LimitedServer(repository, *flags, "--memory-mib", "360", cache=cache, mib=700)
    server.wait_for_log("model ready")  # ready first, logged then; tests look at lines after it
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def healthy_afterwards(served: LimitedServer) -> Iterator[None]:
    """After each attack honest calls are answered, nothing is held, and nothing was logged."""
    lines = len(served.log)
    yield
    # A server that was short of memory refuses large calls until it has looked again.
    wait_until(lambda: is_answered(served))
    wait_until(lambda: held(served, "message") == held(served, "answer") == 0)
    assert served.log[lines:] == []


def is_answered(server: ServerProcess) -> bool:
    with connected(server.http) as honest:
        status = status_of(ask(honest, infer(bytes(256 << 10))))
    assert status in (200, 429)
    return status == 200


def infer(data: bytes, headers: str = "") -> bytes:
    """A call with a tensor of bytes, answered in binary."""
    size = {"binary_data_size": len(data)}
    tensors = [
        {"name": "in_UINT8", "datatype": "UINT8", "shape": [len(data)], "parameters": size},
        {"name": "in_FP32", "datatype": "FP32", "shape": [1], "data": [1.5]},
    ]
    described = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    head = json.dumps(described).encode()
    lengths = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return post(head + data, lengths + headers)


def post(body: bytes, headers: str = "") -> bytes:
    return f"{INFER}Content-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def held(server: ServerProcess, use: str) -> float:
    return server.metric(f'convserve_memory_held_bytes{{use="{use}"}}')


def resident(server: ServerProcess) -> int:
    """Bytes that the server has in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def refused(server: ServerProcess, reason: str) -> float:
    _, text = server.get(server.metrics_url)
    name = f'convserve_http_refused_total{{port="http",reason="{reason}"}} '
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def trickle(connection: socket.socket, data: bytes, pause: float) -> bytes:
    """Sends a byte at a time until the server answers or closes; the answer."""
    connection.settimeout(pause)
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            return connection.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the server took it all")


# Memory of one call; first, while the server has none left over from others.


def test_one_body_is_in_memory_once(served: LimitedServer) -> None:
    size = 31 * MIB
    request = infer(b"x" * size)
    with connected(served.http) as caller:
        caller.sendall(request[: size // 2])
        wait_until(lambda: held(served, "message") > 0.9 * size / 2)
        served.reset_peak()
        before = served.peak_mib()
        caller.sendall(request[size // 2 : -1])
        wait_until(lambda: held(served, "message") > 0.99 * size)
        assert served.peak_mib() < before + 0.5 * size / MIB + 12


def test_one_answer_is_in_memory_once(served: LimitedServer) -> None:
    request = infer(b"x" * 24 * MIB)
    with connected(served.http) as caller:
        assert status_of(ask(caller, request)) == 200  # the engine keeps what it has once needed
    wait_until(lambda: held(served, "answer") == 0)
    before = resident(served)
    with connected(served.http, buffer=4096) as caller:
        caller.sendall(request)
        wait_until(lambda: held(served, "answer") > 0 and held(served, "message") == 0)
        assert held(served, "answer") < 25 * MIB
        assert resident(served) < before + 36 * MIB


# Heads.


def test_half_a_head_is_cut_and_told(served: LimitedServer) -> None:
    before = refused(served, "head")
    with connected(served.http) as caller:
        answer = ask(caller, INFER.encode())
        assert (status_of(answer), is_closed(caller)) == (408, True)
        assert "the head of the request took more than 0.6 s" in error_of(answer)
    assert refused(served, "head") == before + 1


def test_connection_that_says_nothing_is_closed_without_a_word(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        assert is_closed(caller)


def test_head_that_trickles_is_cut_however_often_a_byte_comes(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        assert status_of(trickle(caller, INFER.encode(), 0.05)) == 408
    # Also the second of a connection, and one that begins with empty lines.
    with connected(served.http) as caller:
        assert status_of(ask(caller, LIVE)) == 200
        assert status_of(trickle(caller, b"\r\n" * 100, 0.05)) == 408


def test_head_without_end_is_cut_by_its_size(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        caller.sendall(INFER.encode())
        with contextlib.suppress(ConnectionError):
            for number in range(100):
                caller.sendall(f"X-{number}: {'x' * 4000}\r\n".encode())
                time.sleep(0.001)  # so that the head comes in pieces
        with contextlib.suppress(ConnectionError):
            assert status_of(answer_of(caller)) in (0, 431)
        assert is_closed(caller)


def test_idle_connection_is_closed_and_a_busy_one_is_not(served: LimitedServer) -> None:
    with connected(served.http) as idle, connected(served.http) as busy:
        assert status_of(ask(idle, LIVE)) == status_of(ask(busy, LIVE)) == 200
        end = time.monotonic() + 1.5 * IDLE
        while time.monotonic() < end:
            assert status_of(ask(busy, LIVE)) == 200
            time.sleep(IDLE / 10)  # a caller's own pause
        assert is_closed(idle)


# Bodies.


def test_body_that_stands_still_is_cut_and_gives_its_memory_back(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        caller.sendall(post(b"x" * MIB)[: MIB // 2])
        wait_until(lambda: held(served, "message") > 0)
        answer = answer_of(caller)
        assert (status_of(answer), is_closed(caller)) == (408, True)
        assert "expected no pause above 0.5 s" in error_of(answer)
    assert refused(served, "body") >= 1


def test_body_that_trickles_is_cut_although_it_never_stands_still(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        caller.sendall(post(b"x" * MIB)[:1000])
        assert status_of(trickle(caller, b"x" * 100, 0.05)) == 408
    with connected(served.http) as caller:
        caller.sendall(f"{INFER}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert status_of(trickle(caller, b"1\r\nx\r\n" * 50, 0.05)) == 408


def test_large_body_may_take_longer_than_a_small_one(served: LimitedServer) -> None:
    """At the slowest rate that is allowed, and somewhat faster, since a second of that is free."""
    request = infer(b"x" * (256 << 10))
    with connected(served.http) as caller:
        for start in range(0, len(request), 24 << 10):
            caller.sendall(request[start : start + (24 << 10)])
            time.sleep(0.18)  # a slow line
        assert status_of(answer_of(caller)) == 200


@pytest.mark.parametrize("path", ["models/echo/infer", "repository/models/echo/load", "logging"])
def test_body_announced_beyond_the_limit_is_refused_before_it_comes(
    served: LimitedServer, path: str
) -> None:
    with connected(served.http) as caller:
        answer = ask(
            caller,
            f"POST /v2/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {200 * MIB}\r\n\r\n".encode(),
        )
        assert (status_of(answer), is_closed(caller)) == (413, True)


def test_bodies_of_control_calls_are_small(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        request = post(b'{"ready": true' + b" " * 2 * MIB + b"}")
        answer = ask(caller, request.replace(b"/v2/models/echo/infer", b"/v2/repository/index"))
        assert status_of(answer) == 413
        assert "more than 1048576 bytes" in error_of(answer)


def test_body_in_chunks_is_cut_where_it_passes_the_limit(served: LimitedServer) -> None:
    served.reset_peak()
    before = served.peak_mib()
    with connected(served.http) as caller:
        caller.sendall(f"{INFER}Transfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                caller.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
        with contextlib.suppress(ConnectionError):
            answer = answer_of(caller)
            assert not answer or status_of(answer) == 413
    assert served.peak_mib() < before + 48


@pytest.mark.parametrize("size", [1, 16, 100])
def test_bodies_in_tiny_chunks_are_cut_and_hold_up_nobody(served: LimitedServer, size: int) -> None:
    chunk = b"%x\r\n" % size + b" " * size + b"\r\n"
    head = f"{INFER}Transfer-Encoding: chunked\r\n\r\n".encode()
    with LoopProbe(served) as probe:
        for _ in range(2):
            with connected(served.http) as caller, contextlib.suppress(ConnectionError):
                caller.sendall(head + chunk * (4 * MIB // len(chunk)))
                answer = answer_of(caller)
                assert status_of(answer) == 413
                assert "expected at most 10000, and one more for every 512 bytes" in error_of(
                    answer
                )
    assert probe.pauses.longest < 0.05, probe.pauses


def test_body_in_small_chunks_is_whole(served: LimitedServer) -> None:
    head, _, body = infer(bytes(range(256)) * 200).partition(b"\r\n\r\n")
    length = head.split(b"Content-Length: ")[1].split(b"\r\n")[0]
    head = head.replace(b"Content-Length: " + length, b"Transfer-Encoding: chunked", 1)
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    with connected(served.http) as caller:
        for _ in range(2):
            answer = ask(caller, head + b"\r\n\r\n" + sent + b"0\r\n\r\n")
            assert status_of(answer) == 200
            assert bytes(range(256)) * 200 in answer


@pytest.mark.parametrize(
    "data",
    [b"\n" + b"2" * 9, b"text line\r\n", b"\r\n", b"1\r\na\r\n", bytes(range(256))],
    ids=["pixels", "lines", "ends of lines", "chunks", "any byte"],
)
def test_body_in_chunks_is_whole_whatever_it_holds(served: LimitedServer, data: bytes) -> None:
    data *= 8 * MIB // len(data)
    head, _, body = infer(data).partition(b"\r\n\r\n")
    length = head.split(b"Content-Length: ")[1].split(b"\r\n")[0]
    head = head.replace(b"Content-Length: " + length, b"Transfer-Encoding: chunked", 1)
    parts = [body[start : start + (64 << 10)] for start in range(0, len(body), 64 << 10)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    with LoopProbe(served) as probe, connected(served.http) as caller:
        answer = ask(caller, head + b"\r\n\r\n" + sent + b"0\r\n\r\n")
        assert status_of(answer) == 200
        assert data in answer
    assert probe.pauses.longest < 0.05, probe.pauses


def test_json_in_chunks_may_have_a_number_a_line(served: LimitedServer) -> None:
    numbers = b",\n".join([b"0.123456"] * 60_000)
    body = (
        b'{"inputs": [{"name": "in_UINT8", "datatype": "UINT8", "shape": [1], "data": [1]}, '
        b'{"name": "in_FP32", "datatype": "FP32", "shape": [60000], "data": [' + numbers + b"]}]}"
    )
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with connected(served.http) as caller:
        head = f"{INFER}Transfer-Encoding: chunked\r\n\r\n".encode()
        assert status_of(ask(caller, head + sent)) == 200


def test_memory_of_a_body_is_given_back_when_its_caller_leaves(served: LimitedServer) -> None:
    with connected(served.http) as caller:
        caller.sendall(post(b"x" * MIB)[: MIB // 2])
        wait_until(lambda: held(served, "message") > 0)
    wait_until(lambda: held(served, "message") == 0)


def test_bodies_of_many_callers_share_one_budget(served: LimitedServer) -> None:
    """360 MiB are for calls: of twenty bodies of 31 MiB some find no room, and are told so."""
    body = infer(b"x" * 31 * MIB)[:-1]

    def send(_: int) -> int:
        with connected(served.http) as caller, contextlib.suppress(ConnectionError):
            caller.sendall(body)
            return status_of(answer_of(caller))
        return 0

    with ThreadPoolExecutor(20) as callers:
        statuses = Counter(callers.map(send, range(20)))
    # Whoever still sends when he is refused may see that the connection is closed, and no more. How
    # many find no room depends on how fast they send: who takes too long makes room for others.
    assert set(statuses) <= {0, 408, 429}
    assert statuses[429] > 0
    assert served.kills == 0


# Compressed bodies.


BOMBS: dict[str, Callable[[], bytes]] = {
    "one that becomes 250 MiB": lambda: gzip.compress(bytes(250 * MIB)),
    "one in another": lambda: gzip.compress(gzip.compress(bytes(250 * MIB))),
    "members in a row": lambda: gzip.compress(bytes(8 * MIB)) * 16,
    "empty members": lambda: gzip.compress(b"") * 100_000,
    "blanks before JSON": lambda: gzip.compress(b" " * 60 * MIB + b"{}"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_while_they_are_small_and_in_short_turns(
    served: LimitedServer, kind: str
) -> None:
    request = post(BOMBS[kind](), "Content-Encoding: gzip\r\n")
    served.reset_peak()
    before = served.peak_mib()
    with LoopProbe(served) as probe:
        for _ in range(4):
            with connected(served.http) as caller:
                answer = ask(caller, request)
                assert status_of(answer) in (400, 413)
                assert len(error_of(answer)) < 400
    assert served.peak_mib() < before + 64
    assert probe.pauses.longest < 0.05, probe.pauses


def test_compressed_body_of_the_largest_size_does_not_hold_up_the_others(
    served: LimitedServer,
) -> None:
    """31 MiB that become less than 200 for one, for a model that is not there."""
    body = b"".join(bytes([n % 251, n % 13]) + bytes(98) for n in range(31 * MIB // 100))
    headers = "Content-Encoding: gzip\r\nInference-Header-Content-Length: 2\r\n"
    request = post(gzip.compress(body), headers)
    with LoopProbe(served) as probe, connected(served.http) as caller:
        answer = ask(caller, request.replace(b"/echo/", b"/none/"))
        assert status_of(answer) == 404
    assert probe.pauses.longest < 0.05, probe.pauses


# Answers.


def test_answer_that_nobody_reads_is_cut_and_gives_its_memory_back(served: LimitedServer) -> None:
    before = refused(served, "answer")
    with connected(served.http, buffer=4096) as caller:
        caller.sendall(infer(b"x" * 20 * MIB))
        wait_until(lambda: held(served, "answer") > 20 * MIB)
        wait_until(lambda: held(served, "answer") == 0)
    assert refused(served, "answer") == before + 1


def test_answer_that_is_read_too_slowly_is_cut(served: LimitedServer) -> None:
    """TRANSFER and a second for every 64 KiB are 13 s for 768 KiB: of larger ones a test would
    take minutes. What is read steadily below that rate is cut all the same."""
    with connected(served.http, buffer=4096) as caller:
        caller.sendall(infer(b"x" * 20 * MIB))
        wait_until(lambda: held(served, "answer") > 20 * MIB)
        for _ in range(5):
            caller.recv(1000)
            time.sleep(STALL / 5)  # a slow reader
        wait_until(lambda: held(served, "answer") == 0)


def test_answers_that_nobody_reads_share_the_budget(served: LimitedServer) -> None:
    served.reset_peak()
    before = served.peak_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            caller = stack.enter_context(connected(served.http, buffer=4096))
            with contextlib.suppress(ConnectionError):
                caller.sendall(infer(b"x" * 24 * MIB))
        wait_until(lambda: held(served, "answer") == 0)
    assert served.kills == 0
    assert served.peak_mib() < before + 560


def test_requests_sent_ahead_of_unread_answers_are_held_back(served: LimitedServer) -> None:
    served.reset_peak()
    before = served.peak_mib()
    with connected(served.http, buffer=4096) as caller:
        caller.settimeout(STALL / 2)
        large = infer(b"x" * 8 * MIB)
        sent = 0
        with contextlib.suppress(OSError):
            caller.sendall(large)
            for _ in range(1000):
                ahead = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 8000}\r\n\r\n"
                caller.sendall(ahead.encode() * 8)
                sent += len(ahead) * 8
        assert sent < 20 * MIB
        wait_until(lambda: held(served, "answer") == 0)
    assert served.peak_mib() < before + 64


# Junk.


def test_flood_of_junk_is_counted_and_leaves_no_line(served: LimitedServer) -> None:
    before = refused(served, "malformed")
    junk = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5, b"GET\r\n\r\n", b"{}\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
            INFER.encode() + b"Content-Length: -1\r\n\r\n",
            INFER.encode() + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
            INFER.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            INFER.encode() + b"Transfer-Encoding: nope\r\n\r\n"]  # fmt: skip
    for number in range(200):
        with connected(served.http) as caller, contextlib.suppress(ConnectionError):
            assert status_of(ask(caller, junk[number % len(junk)])) in (0, 400, 501)
    assert refused(served, "malformed") > before + 100

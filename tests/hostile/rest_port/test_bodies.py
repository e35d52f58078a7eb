"""Bodies that are too large, stall, come in odd chunks or are bombs; their memory comes back."""

import contextlib
import gzip
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.hostile.rest_port.conftest import (
    INFER,
    MIB,
    held,
    infer,
    post,
    refused,
    trickle,
)
from tests.support.beside import LoopProbe
from tests.support.limited import LimitedServer
from tests.support.raw_http import (
    answer_of,
    ask,
    connected,
    error_of,
    is_closed,
    status_of,
    wait_until,
)


# First, while the server has no memory left over from others.
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

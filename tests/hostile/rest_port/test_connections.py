"""Callers of the REST port that stall in their head, read nothing, or send junk, are cut."""

import contextlib
import time
from pathlib import Path

from tests.hostile.rest_port.conftest import (
    IDLE,
    INFER,
    MIB,
    STALL,
    held,
    infer,
    refused,
    trickle,
)
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

LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def resident(server: ServerProcess) -> int:
    """Bytes that the server has in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


# First, while the server has no memory left over from others.
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


def test_no_answer_tells_which_software_made_it(served: LimitedServer) -> None:
    requests = [LIVE, LIVE.replace(b"livez", b"none"), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    answers = []
    for url in (served.http, served.metrics_url):
        for request in requests:
            with connected(url) as caller:
                answers.append(ask(caller, request))
    with connected(served.http) as caller:  # cut before aiohttp has a request
        answers.append(trickle(caller, INFER.encode(), 0.05))
    assert {status_of(answer) for answer in answers} == {200, 400, 404, 408}
    for answer in answers:
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"\r\nserver:") == head.count(b"\r\nserver: convserve\r\n") == 1, answer


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

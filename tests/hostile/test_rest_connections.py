"""Callers that take the connections of the REST port: gRPC, the metrics, the probes and callers
from elsewhere are answered all the same."""

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

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

LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
METADATA = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF_A_BODY = (
    b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
)
# What is left of 1,024 descriptors for the two ports of callers, by serving.base.machine.files.
PLACES = (1024 - 256) // 2
OF_ADDRESS = PLACES // 2
SPARE = 16


@pytest.fixture(scope="module")
def served(colours: Path, cache: Path) -> Iterator[LimitedServer]:
    """A server with 1,024 descriptors and the limits by default."""
    server = LimitedServer(colours, "--http-stall-seconds=60", cache=cache, mib=600, files=1024)
    server.wait_for_log("model ready")  # ready first, logged then; tests look at lines after it
    yield server
    server.kill()


@contextlib.contextmanager
def many(
    server: LimitedServer, count: int, request: bytes, source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Connections that have sent a request, or a part of one, and read nothing."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(connected(server.http, source=source)))
            with contextlib.suppress(ConnectionError):
                opened[-1].sendall(request)
        yield opened


def serves_over_grpc(server: LimitedServer) -> bool:
    with grpc.insecure_channel(server.url) as channel:
        asked = health_pb2.HealthCheckRequest()
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def probes(server: LimitedServer) -> list[int]:
    """Statuses of the probes of both HTTP ports, and of the metrics."""
    base = server.metrics_url.removesuffix("/metrics")
    urls = [f"{server.http}/livez", f"{server.http}/v2/health/ready", f"{base}/livez"]
    return [server.get(url)[0] for url in (*urls, f"{base}/readyz", server.metrics_url)]


def connections(server: LimitedServer) -> float:
    return server.metric('convserve_http_connections{port="http"}')


def refused(server: LimitedServer, reason: str) -> float:
    return server.metric(f'convserve_http_refused_total{{port="http",reason="{reason}"}}')


@pytest.mark.parametrize("sent", [b"", LIVE], ids=["nothing", "a call"])
def test_thousand_idle_connections_keep_nobody_out(served: LimitedServer, sent: bytes) -> None:
    lines = len(served.log)
    with many(served, 1000, sent):
        assert serves_over_grpc(served)
        assert probes(served) == [200] * 5
        assert connections(served) <= OF_ADDRESS
        assert refused(served, "idle") >= 1000 - OF_ADDRESS
        with connected(served.http) as honest:
            assert status_of(ask(honest, METADATA)) == 200
    assert served.log[lines:] == []


def test_connection_that_is_used_outlives_idle_ones(served: LimitedServer) -> None:
    with connected(served.http) as honest:
        for _ in range(5):
            assert status_of(ask(honest, METADATA)) == 200
            with many(served, OF_ADDRESS // 2, b""):
                assert status_of(ask(honest, METADATA)) == 200


def test_busy_connections_of_one_address_leave_probes_and_others_in(served: LimitedServer) -> None:
    with many(served, OF_ADDRESS + SPARE + 5, HALF_A_BODY) as callers:
        # The first are read on, the others told that they are too many.
        for caller in callers[OF_ADDRESS:]:
            with contextlib.suppress(ConnectionError):
                answer = answer_of(caller)
                assert status_of(answer) == 503
                assert "too many connections" in error_of(answer)
            assert is_closed(caller)
        assert serves_over_grpc(served)
        assert probes(served) == [200] * 5
        with connected(served.http) as one_more:
            assert status_of(ask(one_more, METADATA)) == 503
            assert is_closed(one_more)
        with connected(served.http, source="127.0.0.2") as other:
            assert status_of(ask(other, METADATA)) == 200
        assert refused(served, "connections") >= SPARE + 5
    with connected(served.http) as after:
        assert status_of(ask(after, METADATA)) == 200


def test_busy_connections_of_many_addresses_leave_the_probes_in(served: LimitedServer) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(2, 6):
            source = f"127.0.0.{number}"
            stack.enter_context(many(served, PLACES // 4, HALF_A_BODY, source))
        wait_until(lambda: connections(served) == PLACES)
        assert serves_over_grpc(served)
        assert probes(served) == [200] * 5
        assert connections(served) <= PLACES + SPARE


def test_metrics_port_is_not_taken_by_idle_callers(served: LimitedServer) -> None:
    base = served.metrics_url
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connected(base))
        assert probes(served) == [200] * 5
        open_now = served.metric('convserve_http_connections{port="metrics"}')
        assert open_now <= 64 + SPARE


def test_low_limit_of_files_is_told(served: LimitedServer) -> None:
    line = served.wait_for_log("fewer connections: the limit of open files is low")
    assert (line["max_connections"], line["taken"], line["open_files"]) == (1024, PLACES, 1024)


def test_limit_of_files_is_raised_as_far_as_it_may_be(served: LimitedServer) -> None:
    limits = Path(f"/proc/{served.process.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard == "1024"


def test_callers_that_come_and_go_leave_nothing_behind(served: LimitedServer) -> None:
    for _ in range(300):
        with connected(served.http) as caller:
            caller.sendall(METADATA)
    with urllib.request.urlopen(f"{served.http}/v2", timeout=10) as response:
        assert json.loads(response.read())["name"] == "convserve"
    assert connections(served) < 50

"""Web pages that call the REST port from a browser of this machine or network."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.process import ServerProcess
from tests.support.raw_http import ask, connected, error_of, status_of

CHANGES = [
    "/v2/repository/models/colours/load",
    "/v2/repository/models/colours/unload",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/region/r/unregister",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/region/r/register",
    "/v2/cudasharedmemory/unregister",
    "/v2/trace/setting",
    "/v2/models/colours/trace/setting",
    "/v2/logging",
]
INFER = "/v2/models/colours/infer"
JSON = "Content-Type: application/json\r\n"


@pytest.fixture
def caller(server: ServerProcess) -> Iterator[socket.socket]:
    with connected(server.http) as connection:
        yield connection


def request(method: str, path: str, host: str, headers: str = "") -> bytes:
    """A request, with a body where it is a POST."""
    body = "{}" if method == "POST" else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n{body}".encode()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "localhost.:1",
        "127.0.0.1",
        "10.1.2.3:8000",
        "[::1]",
        "[fe80::1]:80",
        socket.gethostname(),
    ],
)
def test_names_of_this_machine_are_answered(caller: socket.socket, host: str) -> None:
    assert status_of(ask(caller, request("GET", "/v2", host))) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "localhost:80:80",
        "localhost:x",
        "[::1",
        "[::1]evil",
        "[evil]",
        "127.0.0.1@evil.example",
        "",
        "x" * 4000,
        "\xff",
    ],
)
@pytest.mark.parametrize("path", ["/v2", "/livez", "/debug/batches", INFER, "/v2/logging", "/none"])
def test_other_names_are_refused_on_every_route(
    caller: socket.socket, host: str, path: str
) -> None:
    method = "POST" if path == INFER else "GET"
    answer = ask(caller, request(method, path, host))
    assert status_of(answer) in (400, 421)
    assert len(answer) < 800
    if host.startswith("evil.example"):
        assert status_of(answer) == 421
        assert "--http-hosts" in error_of(answer)
        assert "evil.example" in error_of(answer)
    if len(host) > 100:
        assert host not in error_of(answer)


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_host_is_given_once(caller: socket.socket, hosts: list[str]) -> None:
    given = "".join(f"Host: {host}\r\n" for host in hosts)
    assert status_of(ask(caller, f"GET /v2 HTTP/1.1\r\n{given}\r\n".encode())) == 400


def test_old_clients_may_leave_the_host_out(caller: socket.socket) -> None:
    assert status_of(ask(caller, b"GET /livez HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        "Origin: http://evil.example\r\n",
        "Origin: https://localhost.evil.example\r\n",
        "Origin: http://localhost:3000\r\n",
        "Origin: http://localhost\r\nOrigin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: \r\n",
        "Origin: localhost\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
        "Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n",
    ],
)
@pytest.mark.parametrize("path", [INFER, *CHANGES])
def test_pages_of_other_origins_may_neither_infer_nor_change(
    caller: socket.socket, headers: str, path: str
) -> None:
    answer = ask(caller, request("POST", path, "localhost", JSON + headers))
    assert status_of(answer) == 403
    assert "origin" in error_of(answer).lower() or "Sec-Fetch-Site" in error_of(answer)
    assert b"access-control" not in answer.lower()


@pytest.mark.parametrize(
    "headers",
    ["", "Origin: http://localhost:8000\r\n", "Origin: HTTPS://LOCALHOST:8000\r\n",
     "Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: none\r\n"],
)  # fmt: skip
def test_callers_that_are_no_page_and_pages_of_the_server_may_infer(
    caller: socket.socket, headers: str
) -> None:
    answer = ask(caller, request("POST", INFER, "localhost:8000", headers))
    assert status_of(answer) == 400
    assert "missing" in error_of(answer)


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "kind",
    ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n",
     "Content-Type: multipart/form-data; boundary=x\r\n",
     "Content-Type: text/plain; application/json\r\n"],
)  # fmt: skip
def test_changes_are_taken_as_json_alone(caller: socket.socket, path: str, kind: str) -> None:
    answer = ask(caller, request("POST", path, "localhost", kind))
    assert status_of(answer) == 415
    assert "expected application/json" in error_of(answer)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_changes_as_json_reach_their_route(caller: socket.socket, kind: str) -> None:
    answer = ask(caller, request("POST", "/v2/logging", "localhost", f"Content-Type: {kind}\r\n"))
    assert status_of(answer) != 415


def test_token_says_that_no_page_has_sent_a_change(caller: socket.socket) -> None:
    """tritonclient does not say that it sends JSON; a page cannot send a token unasked."""
    token = "Authorization: Bearer none\r\n"
    kind = "Content-Type: text/plain\r\n"
    assert status_of(ask(caller, request("POST", "/v2/logging", "localhost", token + kind))) == 403
    foreign = "Origin: http://evil.example\r\n"
    answer = ask(caller, request("POST", "/v2/logging", "localhost", token + JSON + foreign))
    assert "Origin" in error_of(answer)


def test_callers_of_the_socket_are_no_pages(server: ServerProcess) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(server.admin_http)
        for headers in ("", "Origin: http://evil.example\r\n", "Content-Type: text/plain\r\n"):
            answer = ask(connection, request("POST", "/v2/logging", "anything", headers))
            assert status_of(answer) == 200


@pytest.mark.parametrize("path", ["/v2", INFER, "/v2/logging", "/metrics"])
def test_pages_that_ask_whether_they_may_get_no_leave(server: ServerProcess, path: str) -> None:
    base = server.metrics_url if path == "/metrics" else server.http
    asked = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
    with connected(base) as connection:
        answer = ask(connection, request("OPTIONS", path, "localhost", asked))
    assert status_of(answer) == 405
    assert b"access-control" not in answer.lower()


def test_metrics_are_scraped_by_any_name(server: ServerProcess) -> None:
    with connected(server.metrics_url) as connection:
        scrape = b"GET /metrics HTTP/1.1\r\nHost: convserve:8002\r\n\r\n"
        assert status_of(ask(connection, scrape)) == 200


def test_refusals_are_counted_and_leave_no_line(server: ServerProcess) -> None:
    lines = len(server.log)
    with connected(server.http) as connection:
        for _ in range(50):
            assert status_of(ask(connection, request("GET", "/v2", "evil.example"))) == 421
    counted = server.metric('convserve_http_refused_total{port="http",reason="host"}')
    assert counted >= 50
    assert json.dumps(server.log[lines:]) == "[]"

"""A server with short limits on its REST port, which each attack must leave healthy."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.identity import publish_identity
from tests.support.limited import LimitedServer
from tests.support.process import ServerProcess
from tests.support.raw_http import (
    ask,
    connected,
    status_of,
    wait_until,
)

INFER = "POST /v2/models/echo/infer HTTP/1.1\r\nHost: localhost\r\n"
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

"""Clients of other libraries than grpcio, over every wire: grpc-js, grpc-java and grpc-go, by small
programs in tests/support/stacks; h2load, which speaks HTTP/2 by libnghttp2. Where a library is not
installed, its tests are skipped: those of Java and Go are Debian's libgrpc-java, and golang-go with
golang-google-grpc-dev."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.node import copy_sample, find_node
from tests.support.wired import SERVICE, Wired

PROGRAMS = Path(__file__).parents[3] / "support" / "stacks"
JARS = Path("/usr/share/java")
GO_SOURCES = Path("/usr/share/gocode")
SECONDS = 120
# What comes of the cases of each program.
EXPECTED = {
    "empty": 0,
    "small": True,
    "large": True,
    "many": True,
    "text": ["a b"],
    "bytes": ["\x00\xff\n"],
    "failed": [10, "100 % ☺"],
    "unknown": 12,
    "late": 4,
    "pingPong": 0,
    "cancelled": 1,
}


def run(*command: str | Path, **environment: str) -> str:
    """What a program prints."""
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(server: Wired, *command: str | Path, **environment: str) -> None:
    server.cancelled.clear()
    assert json.loads(run(*command, server.url, **environment)) == EXPECTED
    server.wait(lambda: "sleep" in server.cancelled)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sample(tmp_path_factory.mktemp("node") / "sample") / "node_modules"


def test_grpc_js(server: Wired, modules: Path) -> None:
    check(server, find_node(), PROGRAMS / "client.cjs", NODE_PATH=str(modules))


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the program, compiled."""
    if shutil.which("javac") is None or not (JARS / "grpc-core.jar").exists():
        pytest.skip("grpc-java is not installed (Debian: libgrpc-java, default-jdk-headless)")
    folder = tmp_path_factory.mktemp("java")
    path = f"{folder}:{JARS}/*"
    run("javac", "-encoding", "UTF-8", "-cp", path, "-d", folder, PROGRAMS / "Client.java")
    return ["java", "-cp", path, "Client"]


def test_grpc_java(server: Wired, java: list[str]) -> None:
    check(server, *java)


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled."""
    if shutil.which("go") is None or not (GO_SOURCES / "src/google.golang.org/grpc").exists():
        pytest.skip("grpc-go is not installed (Debian: golang-go, golang-google-grpc-dev)")
    built = tmp_path_factory.mktemp("go") / "client"
    sources = {"GO111MODULE": "off", "GOPATH": str(GO_SOURCES), "GOFLAGS": "", "CGO_ENABLED": "0"}
    run("go", "build", "-o", built, PROGRAMS / "client.go", **sources)
    return built


def test_grpc_go(server: Wired, go: Path) -> None:
    check(server, go)


def test_h2load(server: Wired, tmp_path: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    message = tmp_path / "message"
    message.write_bytes(b"\0\0\0\0\4echo")
    server.begun.clear()
    text = run(
        *("h2load", "--requests=2000", "--clients=4", "--max-concurrent-streams=16"),
        *("--header=content-type: application/grpc", "--header=te: trailers"),
        *("--data", message, f"http://{server.url}{SERVICE}echo"),
    )
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    assert counts is not None, text
    assert [*map(int, counts.groups())] == [2000, 0, 0, 0]
    # A status that is an error would be a success to it, too.
    assert server.begun.count("echo") == 2000
    assert f"({2000 * message.stat().st_size}) data" in text

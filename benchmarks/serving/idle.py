"""Memory of a server with many connections that wait.

    python -m benchmarks.serving.idle [--connections 1000 10000] [--wires native grpcio]

Each connection has carried one call. Memory is that of the server's process without files and
without the kernel's buffers; the table says how much more it is than before the first connection.

Exit status 1 where a connection takes more than a wire is held to.
"""

import argparse
import os
import resource
import socket
import struct
import sys
import tempfile
from pathlib import Path

from benchmarks.serving.hostile.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    begun,
    call_head,
    frame,
)
from benchmarks.serving.soak.__main__ import look
from tests.support.process import ServerProcess
from tests.support.published import publish

LIVE = "/inference.GRPCInferenceService/ServerLive"
# KiB of a connection, at most.
MOST = {"native": 20.0, "grpcio": 30.0}
# Descriptors that a server needs for each connection, half of them kept for its other port, and
# besides.
FILES, OTHER_FILES = 2, 600
_HEAD_BYTES = 9
_PATIENCE = 20.0


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection that has carried a call. Raises OSError where the server closes it."""
    opened = socket.create_connection(address, timeout=_PATIENCE)
    call = frame(HEADERS, END_HEADERS, 1, call_head(LIVE))
    call += frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, 0))
    opened.sendall(begun() + frame(SETTINGS, 1, 0) + call)
    come = b""
    while True:
        while len(come) >= _HEAD_BYTES:
            size = int.from_bytes(come[:3], "big")
            if len(come) < _HEAD_BYTES + size:
                break
            if come[3] == HEADERS and come[4] & END_STREAM:
                return opened
            come = come[_HEAD_BYTES + size :]
        part = opened.recv(1 << 16)
        if not part:
            raise ConnectionError("the server has closed the connection")
        come += part


def measure(wire: str, counts: list[int], folder: Path) -> list[tuple[int, float, int]]:
    """(connections, MiB more than without, descriptors) for each count, of a server of its own."""
    most = str(max(counts))
    bounds = ("--max-connections", most, "--max-connections-per-address", most)
    server = ServerProcess(
        folder / "models", "--strict-readiness", "--wire", wire, *bounds, cache=folder / "cache"
    )
    held: list[socket.socket] = []
    try:
        server.wait_ready()
        host, _, port = server.url.rpartition(":")
        address = (host, int(port))
        connect(address).close()
        before = look(server.process.pid, 0.0)
        found = []
        for count in counts:
            while len(held) < count:
                held.append(connect(address))
            after = look(server.process.pid, 0.0)
            found.append((count, after.memory - before.memory, round(after.files)))
        return found
    finally:
        for opened in held:
            opened.close()
        server.kill()


def possible(counts: list[int]) -> list[int]:
    """As many connections as the limit of descriptors lets a server have, which this process hands
    on to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (hard - OTHER_FILES) // FILES
    if counts[-1] > most:
        print(f"ulimit -Hn {hard} lets a server have {most:,} connections, not {counts[-1]:,}\n")
    return sorted({min(count, most) for count in counts})


def main() -> None:
    """Prints the table; exit status 1 where a bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--wires", nargs="+", default=[*MOST], choices=[*MOST])
    arguments = parser.parse_args()
    counts = possible(sorted(arguments.connections))
    os.environ.pop("CONVSERVE_WIRE", None)
    missed = []
    print("| wire | connections | MiB more | KiB a connection | at most |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        publish(Path(name) / "models")
        for wire in arguments.wires:
            for count, more, files in measure(wire, counts, Path(name)):
                each = more * 1024 / count
                print(f"| {wire} | {count:,} | {more:.1f} | {each:.1f} | {MOST[wire]:g} |")
                if each > MOST[wire]:
                    missed.append(f"{wire}: {each:.1f} KiB a connection")
                if files < count:
                    missed.append(f"{wire}: {count - files} of {count} connections are gone")
    sys.exit("; ".join(missed) or 0)


if __name__ == "__main__":
    main()

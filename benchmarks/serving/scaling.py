"""CPU cost of a request to a server with many connections, over each wire, and with many models.

    python -m benchmarks.serving.scaling [--connections 100 1000] [--models 50] [--rate 400]
        [--seconds 5] [--rounds 5] [--wires native grpcio]

A network that does nothing gets raw tensors of 32x32 in an open loop, with the same Poisson
arrivals in every setting. A closed loop would also measure how many requests happen to come
together, since requests over one connection are read together, and requests for one model run
together. The cost is CPU time of the server's process for each request, idle work included.

Connections are separate TCP connections, counted at the server, which carry requests in turn; each
setting has a server of its own, and its connections stay open. Clients of gRPC ping after a call
while a connection is new, and hardly ever later, so the first round is left out. Models are copies
of one network over the first wire; each request names the next. A bare echo of grpc.aio shows its
share of the cost. Settings take turns; ratios are medians of the ratios within a round.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.echo import SIDE, echo_server
from benchmarks.serving.networks import export_trivial, publish
from benchmarks.serving.speed.measure import Watch
from benchmarks.serving.tensor_load import image_requests, play
from loadtest.generator.arrivals import Arrivals
from loadtest.generator.player import precise_loop
from loadtest.measurement.server_process import local_server, usage
from loadtest.results import OK
from loadtest.wire.grpc_client import UnaryClient
from loadtest.wire.messages import Outcome, Request
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
# The largest ratios that are allowed: of many connections to one, and of many models to one.
CONNECTIONS_MOST, MODELS_MOST = 1.15, 1.3
WIRES = ("native", "grpcio")
# File descriptors that a process has open besides connections.
OTHER_FILES = 200
TIMEOUT = 30.0
# Connections that are opened at the same time. More would overflow the listening socket's queue.
AT_ONCE = 50


@dataclass(frozen=True)
class Turn:
    """The figures of one turn.

    cpu: seconds of the server for each request.
    p50, p99: latency, milliseconds.
    late: p99 of the delay of sends, milliseconds.
    others: share of the machine that other processes used.
    """

    cpu: float
    p50: float
    p99: float
    late: float
    others: float


@dataclass
class Setting:
    """A row: a server's address and process, the connections to it and the models that are asked.

    base: the row that it is compared with.
    most: the largest ratio to `base` that is allowed.
    """

    name: str
    url: str
    pid: int
    connections: int
    models: list[str]
    base: "Setting | None" = None
    most: float | None = None
    turns: list[Turn] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """CPU time of a request as a multiple of that of `base`."""
        base = self.base or self
        return statistics.median(
            turn.cpu / other.cpu for turn, other in zip(self.turns, base.turns, strict=True)
        )


class Connections:
    """Clients with a connection each, which carry the requests in turn."""

    def __init__(self, url: str, count: int) -> None:
        self.clients = [UnaryClient(url, TIMEOUT) for _ in range(count)]
        self._turns = itertools.cycle(self.clients)

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """Sends a request; the outcome of its answer."""
        return await next(self._turns).call(request, deadline, priority)


def sockets(pid: int) -> int:
    """The number of connections that a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found += str(link.readlink()).startswith("socket:")
    return found


@contextlib.asynccontextmanager
async def connected(setting: Setting, requests: list[Request]) -> AsyncIterator[Connections]:
    """Connections that have carried a request each, and are closed at the end."""
    before = sockets(setting.pid)
    connections = Connections(setting.url, setting.connections)
    clients = connections.clients
    for first in range(0, len(clients), AT_ONCE):
        calls = [client.call(requests[0], 0.0, 0) for client in clients[first : first + AT_ONCE]]
        for status, *_ in await asyncio.gather(*calls):
            if status != OK:
                raise RuntimeError(f"{setting.name}: status {status} while connecting")
    for request in requests:
        await connections.call(request, 0.0, 0)
    opened = sockets(setting.pid) - before
    if opened != setting.connections:
        raise RuntimeError(f"{setting.name}: the server has {opened} connections")
    yield connections
    for client in clients:
        await client.close()
    while sockets(setting.pid) > before:
        await asyncio.sleep(0.02)  # no event shows that the server has closed its end


async def measure(
    setting: Setting, connections: Connections, rate: float, seconds: float, seed: int
) -> Turn:
    """One turn."""
    requests = image_requests(setting.models, SIDE)
    arrivals = Arrivals("poisson", rate=rate)
    watch, begin = Watch(setting.pid), usage(setting.pid)[0]
    records = await play(connections, requests, arrivals, seconds=seconds, seed=seed)
    cpu, others = usage(setting.pid)[0] - begin, watch.share()
    p50, p99 = np.percentile(records["latency"], (50, 99)) * 1e3
    late = float(np.percentile(records["late"], 99)) * 1e3
    return Turn(cpu / len(records), float(p50), float(p99), late, others)


async def take_turns(rows: list[Setting], rate: float, seconds: float, rounds: int) -> None:
    """Measures all rows in so many rounds, after one that does not count."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(connected(row, image_requests(row.models, SIDE)))
            for row in rows
        ]
        for number in range(rounds + 1):
            for row, connections in zip(rows, opened, strict=True):
                turn = await measure(row, connections, rate, seconds, number)
                if number:
                    row.turns.append(turn)


@contextlib.contextmanager
def settings(connections: list[int], models: int, wires: list[str]) -> Iterator[list[Setting]]:
    """The rows that are compared, with their servers running."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        exported = export_trivial(SIDE, FILES)
        names = [f"trivial{number}" for number in range(models)]
        for label, published in (("one", names[:1]), ("many", names)):
            for name in published:
                publish(Path(folder) / label, name, exported)
        most = str(max(connections) + OTHER_FILES)
        bounds = ("--max-connections", most, "--max-connections-per-address", most)

        def served(repository: str, wire: str) -> tuple[str, int]:
            flags = ("--strict-readiness", "--wire", wire, *bounds)
            server = ServerProcess(Path(folder) / repository, *flags, cache=FILES / "cache")
            stack.callback(server.kill)
            return server.wait_ready().url, server.process.pid

        rows, first = list[Setting](), names[:1]

        def add(label: str, start: Callable[[], tuple[str, int]], most: float | None) -> Setting:
            base = Setting(f"{label}, 1 connection", *start(), 1, first)
            rows.append(base)
            for count in connections:
                name = f"{label}, {count:,} connections"
                rows.append(Setting(name, *start(), count, first, base, most))
            return base

        def echo() -> tuple[str, int]:
            url = stack.enter_context(echo_server())
            pid = local_server(url)
            assert pid is not None
            return url, pid

        bases = [add(wire, partial(served, "one", wire), CONNECTIONS_MOST) for wire in wires]
        name = f"{wires[0]}, {models} models"
        many = served("many", wires[0])
        rows.append(Setting(name, *many, 1, names, bases[0], MODELS_MOST))
        add("echo", echo, None)
        yield rows


def open_files(connections: int) -> None:
    """Raises this process's limit of file descriptors, which servers inherit, as far as possible.
    Ends the program where that is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"ulimit -n: {soft}, raised to the hard limit of {hard}")
    if hard != resource.RLIM_INFINITY and hard < connections + OTHER_FILES:
        sys.exit(f"{connections} connections need {connections + OTHER_FILES} open files")


def table(rows: list[Setting]) -> str:
    """Markdown; medians over the rounds."""
    lines = [
        "| setting | CPU ms a request | p50 ms | p99 ms | sent late by p99 ms | others | ratio | "
        "at most |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cpu, p50, p99, late, others = (
            statistics.median(values)
            for values in zip(*(vars(turn).values() for turn in row.turns), strict=True)
        )
        lines.append(
            f"| {row.name} | {cpu * 1e3:.3f} | {p50:.2f} | {p99:.1f} | {late:.1f} | {others:.1%} | "
            f"{row.ratio:.2f} | {row.most or ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table; exit status 1 where a ratio is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--rate", type=float, default=400.0, help="requests/s")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wires", nargs="+", default=[*WIRES], choices=WIRES)
    arguments = parser.parse_args()
    open_files((len(arguments.wires) + 1) * sum(arguments.connections))
    os.environ.pop("CONVSERVE_WIRE", None)
    with (
        settings(arguments.connections, arguments.models, arguments.wires) as rows,
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        runner.run(take_turns(rows, arguments.rate, arguments.seconds, arguments.rounds))
    print(table(rows))
    missed = [row for row in rows if row.most is not None and row.ratio > row.most]
    sys.exit("; ".join(f"{row.name}: {row.ratio:.2f} x" for row in missed) or 0)


if __name__ == "__main__":
    main()

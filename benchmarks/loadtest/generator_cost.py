"""CPU cost of the load generator and of a bare client, in turns in one run.

    python -m benchmarks.loadtest.generator_cost [--seconds 0.3] [--rounds 30] [--h2load PATH]

Closed loop, one process, one connection, against a server that does nothing. Cost is CPU time of
the client's process for each request, which varies less than throughput where the machine is
shared. The bare clients use the generated stub, or `write` and `read` for streams, and only count
answers.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from benchmarks.echo import echo_server
from loadtest.generator.arrivals import Arrivals
from loadtest.generator.player import Player, WorkerShare, precise_loop
from loadtest.payloads.draws import ALWAYS_ZERO, draws
from loadtest.report.comparison import ratio
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from loadtest.wire.messages import Request
from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc

TARGETS = {"unary": 1.15, "stream": 1.3}
H2LOAD_REQUESTS = 10_000
IMAGE = bytes(10_000)
MESSAGE = pb.ClassifyRequest(model="echo", images=[pb.Image(encoded=IMAGE)])


async def bare_unary(url: str, concurrency: int, turns: Connection) -> None:
    """The generated stub, awaited in a loop."""
    async with grpc.aio.insecure_channel(url) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)

        async def caller(end: float) -> int:
            done = 0
            while time.monotonic() < end:
                await stub.Classify(MESSAGE)
                done += 1
            return done

        async def turn(seconds: float) -> int:
            end = time.monotonic() + seconds
            return sum(await asyncio.gather(*(caller(end) for _ in range(concurrency))))

        await take_turns(turns, turn)


async def bare_stream(url: str, concurrency: int, turns: Connection) -> None:
    """One stream with `concurrency` messages under way; each answer lets the next one be
    written."""
    async with grpc.aio.insecure_channel(url) as channel:
        call = vision_pb2_grpc.VisionServiceStub(channel).ClassifyStream()
        for _ in range(concurrency):
            await call.write(MESSAGE)

        async def turn(seconds: float) -> int:
            end = time.monotonic() + seconds
            done = 0
            while time.monotonic() < end:
                await call.read()
                await call.write(MESSAGE)
                done += 1
            return done

        await take_turns(turns, turn)
        call.cancel()


async def our_unary(url: str, concurrency: int, turns: Connection) -> None:
    """The load generator with one call a request."""
    await _ours(UnaryClient(url, 30.0), concurrency, turns)


async def our_stream(url: str, concurrency: int, turns: Connection) -> None:
    """The load generator with one stream."""
    await _ours(StreamClient(url, 30.0, 1), concurrency, turns)


async def _ours(client: UnaryClient | StreamClient, concurrency: int, turns: Connection) -> None:
    records: list[bytes] = []
    player = Player(draws([(1, 1.0)], ALWAYS_ZERO, ALWAYS_ZERO, (0,)), records.append)
    request = Request(0, "Classify", MESSAGE.SerializeToString(), 1)

    async def turn(seconds: float) -> int:
        share = WorkerShare(
            arrivals=Arrivals("closed", concurrency=concurrency),
            seconds=seconds,
            start=asyncio.get_running_loop().time(),
            seed=0,
            worker=0,
            workers=1,
            max_in_flight=10_000,
        )
        records.clear()
        await player.play(client, [request], share)
        return len(records)

    await take_turns(turns, turn)
    await client.close()


Client = Callable[[str, int, Connection], Coroutine[None, None, None]]
CLIENTS: dict[str, tuple[Client, Client]] = {
    "unary": (bare_unary, our_unary),
    "stream": (bare_stream, our_stream),
}


async def take_turns(turns: Connection, turn: Callable[[float], Awaitable[int]]) -> None:
    """Runs a turn for each number of seconds that it receives. Sends back CPU microseconds for each
    request and requests/s. Between turns the process is idle."""
    while (seconds := turns.recv()) is not None:
        cpu, wall = time.process_time(), time.monotonic()
        done = await turn(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        turns.send((cpu / done * 1e6, done / wall))


def play(kind: str, side: int, url: str, concurrency: int, turns: Connection) -> None:
    """The process of one side."""
    with asyncio.Runner(loop_factory=precise_loop if side else None) as runner:
        runner.run(CLIENTS[kind][side](url, concurrency, turns))


def measure(
    kind: str, url: str, seconds: float, rounds: int, concurrency: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Cost and rate of each turn of the bare client and of the load generator, which alternate."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for side in (0, 1):
        ours, theirs = context.Pipe()
        process = context.Process(target=play, args=(kind, side, url, concurrency, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    measured: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for number in range(rounds + 1):
        for side, pipe in enumerate(pipes):
            pipe.send(seconds)
            found = pipe.recv()
            # The first round warms up.
            if number:
                measured[side].append(found)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return measured


def h2load(path: str, url: str, concurrency: int) -> None:
    """The same request from h2load, a C client that parses no answer, for comparison."""
    body = MESSAGE.SerializeToString()
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        command = [
            path, "-t1", "-c1", f"-m{concurrency}", f"-n{H2LOAD_REQUESTS}", "-d", file.name,
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://{url}/convserve.vision.v1.VisionService/Classify",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"h2load: {cpu / H2LOAD_REQUESTS * 1e6:.0f} µs a unary request")
    print(next(line for line in output.splitlines() if line.startswith("finished in")))


def main() -> None:
    """Prints CPU per request of both and their ratio; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--h2load", help="path of h2load, measured beside")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    missed = False
    results = {}
    with echo_server() as url:
        for kind in CLIENTS:
            measured = measure(
                kind, url, arguments.seconds, arguments.rounds, arguments.concurrency
            )
            found = summary(kind, *measured)
            results[kind] = found
            missed |= found["ratio"] > TARGETS[kind]
            if not arguments.json:
                print(describe(kind, found))
        if arguments.h2load:
            h2load(arguments.h2load, url, arguments.concurrency)
    if arguments.json:
        print(json.dumps(results, indent=2))
    sys.exit(int(missed))


def summary(
    kind: str, bare: list[tuple[float, float]], ours: list[tuple[float, float]]
) -> dict[str, float]:
    """Medians of both sides, and the ratio of cost over the rounds."""
    logs = [math.log(b[0] / a[0]) for a, b in zip(bare, ours, strict=True)]
    found = ratio(logs)
    return {
        "bare_us": statistics.median(us for us, _ in bare),
        "ours_us": statistics.median(us for us, _ in ours),
        "bare_per_second": statistics.median(rate for _, rate in bare),
        "ours_per_second": statistics.median(rate for _, rate in ours),
        "ratio": found["ratio"] or 0.0,
        "low": found["low"] or 0.0,
        "high": found["high"] or 0.0,
        "target": TARGETS[kind],
    }


def describe(kind: str, found: dict[str, float]) -> str:
    """One line."""
    return (
        f"{kind:<7} bare {found['bare_us']:.0f} us a request ({found['bare_per_second']:,.0f}/s), "
        f"ours {found['ours_us']:.0f} us ({found['ours_per_second']:,.0f}/s): "
        f"{found['ratio']:.3f} x (95 %: {found['low']:.3f} to {found['high']:.3f}), "
        f"target {found['target']:g} x"
    )


if __name__ == "__main__":
    main()

"""Latencies of a server that stalls for a second, in an open loop and in a closed loop.

    python -m benchmarks.loadtest.stall [--seconds 20] [--rate 200]

The server answers at once, except for one second in the middle of each measurement, in which it
answers nothing. It stalls for one of `seconds`, so the p99 of requests that arrive evenly is known:
the slowest percent waited at least 1 - seconds/100 seconds. One caller in a closed loop sends only
one request in that second, so its p99 does not show the stall.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import grpc

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc

STALL = 1.0
# Seconds by which p99 may differ from the known one. Larger accepts a generator that misses a part
# of the stall, smaller fails by noise.
TOLERANCE = 0.1


class Server(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Stalls for a second, from `middle` seconds after its first inference on."""

    def __init__(self, middle: float) -> None:
        self._middle = middle
        self._first: float | None = None

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Reports that the server is live."""
        return pb.ServerLiveResponse(live=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """One small input."""
        response = pb.ModelMetadataResponse(name=request.name)
        response.inputs.add(name="x", datatype="UINT8", shape=[-1, 16])
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers, at once or when the stall is over."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
        into = now - self._first - self._middle
        if 0 <= into < STALL:
            await asyncio.sleep(STALL - into)
        return pb.ModelInferResponse()


async def measure(seconds: float, *load: str) -> dict[str, Any]:
    """Figures of one run against a server of its own."""
    server = grpc.aio.server()
    servicer = Server(seconds / 2)
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "convserve", "loadtest", "run", "--url", f"127.0.0.1:{port}",
        "--model", "stalling", "--duration", f"{seconds}s", "--warmup", "0", "--json",
        "--max-lateness", "1s", *load,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    await server.stop(None)
    phase: dict[str, Any] = json.loads(output)["phases"][0]
    return phase


def main() -> None:
    """Prints both. Returns exit status 1 where the open loop does not show the stall."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=200.0)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    known = STALL - seconds / 100
    opened = asyncio.run(measure(seconds, "--rate", str(arguments.rate), "--arrivals", "constant"))
    closed = asyncio.run(measure(seconds, "--concurrency", "1"))
    p99 = opened["latency_ms"]["p99"]
    print(f"known     p99 {known * 1e3:.0f} ms of requests that arrive evenly")
    print(
        f"open      p99 {p99['value']:.0f} ms (95 %: {p99['low']:.0f} to {p99['high']:.0f}), "
        f"sent late by p99 {opened['generator']['lateness_ms']['p99']:.2f} ms"
    )
    print(f"naive     p99 {opened['naive_p99_ms']:.2f} ms, worked out from the same run")
    print(f"closed    p99 {closed['latency_ms']['p99']['value']:.2f} ms, one caller")
    sys.exit(int(abs(p99["value"] / 1e3 - known) > TOLERANCE))


if __name__ == "__main__":
    main()

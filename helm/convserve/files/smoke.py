"""Asks a server for its health and for one answer: smoke.py HOST:PORT [MODEL]."""

import asyncio
import sys

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import AsyncVisionClient

_GREY = np.full((64, 64, 3), 128, np.uint8)


async def smoke(url: str, wanted: str) -> str:
    """Which model answered; ends the process where none does."""
    async with grpc.aio.insecure_channel(url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        health = await stub.Check(request, timeout=10, wait_for_ready=True)
    if health.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"{url} is not serving")
    async with AsyncVisionClient(url, timeout=10) as client:
        models = await client.models()
        ready = {line["name"]: line["task"] for line in models if line["state"] == "READY"}
        name = wanted or min(ready)
        if name not in ready:
            sys.exit(f"model {name!r} is not ready; these are: {sorted(ready)}")
        calls = {
            "classification": client.classify,
            "segmentation": client.segment,
            "embedding": client.embed,
        }
        served = (await calls[ready[name]](name, _GREY)).served
    return f"{served.model} version {served.version} ({served.variant})"


def main() -> None:
    url, *wanted = sys.argv[1:]
    answered = asyncio.run(smoke(url, wanted[0] if wanted else ""))
    sys.stdout.write(f"{url} is healthy; {answered} answered\n")


if __name__ == "__main__":
    main()

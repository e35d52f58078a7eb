"""Asks a server for its health and for one answer: smoke.py HOST:PORT [MODEL] [--tls-...]
[--api-key-file FILE | --token-file FILE]."""

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import AsyncVisionClient, ClientTls
from serving.client.tls import channel_to

_GREY = np.full((64, 64, 3), 128, np.uint8)


async def smoke(
    url: str, wanted: str, tls: ClientTls | None, headers: dict[str, str] | None
) -> str:
    """Which model answered; ends the process where none does."""
    async with channel_to(url, tls, ()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        health = await stub.Check(request, timeout=10, wait_for_ready=True)
    if health.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"{url} is not serving")
    async with AsyncVisionClient(url, timeout=10, tls=tls, headers=headers) as client:
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
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model", nargs="?", default="")
    for name in ("ca", "cert", "key", "server-name"):
        parser.add_argument(f"--tls-{name}", default="" if name == "server-name" else None)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--token-file", type=Path)
    given = parser.parse_args()
    tls = ClientTls(given.tls_ca, given.tls_cert, given.tls_key, given.tls_server_name)
    used = None if tls == ClientTls() else tls
    headers = {}
    if given.api_key_file:
        headers["x-api-key"] = given.api_key_file.read_text().strip()
    if given.token_file:
        headers["authorization"] = f"Bearer {given.token_file.read_text().strip()}"
    answered = asyncio.run(smoke(given.url, given.model, used, headers or None))
    sys.stdout.write(f"{given.url} is healthy; {answered} answered\n")


if __name__ == "__main__":
    main()

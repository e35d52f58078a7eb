"""CPU cost of a server when our own client sends many images with its default settings.

    python -m benchmarks.serving.speed.client URL MODEL SIDE SECONDS

Raw RGB images of SIDE x SIDE through AsyncVisionClient.classify_many, 32 at a time. Prints one JSON
document: requests, seconds, and the CPU seconds of the server and of this process.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import uvloop

from loadtest.measurement.server_process import local_server, usage
from serving.client import AsyncVisionClient, CallFailed

_CONCURRENCY = 32
_WARMUP_SECONDS = 1.0


async def _measure(url: str, model: str, side: int, seconds: float) -> dict[str, Any]:
    process = local_server(url)
    if process is None:
        raise RuntimeError(f"{url}: no server of this machine listens there")
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)

    async def run(client: AsyncVisionClient, duration: float) -> int:
        end = time.monotonic() + duration
        count = 0

        def until() -> Iterator[Any]:
            for item in repeat(image):
                if time.monotonic() >= end:
                    return
                yield item

        async for _, answer in client.classify_many(model, until(), concurrency=_CONCURRENCY):
            if isinstance(answer, CallFailed):
                raise answer
            count += 1
        return count

    async with AsyncVisionClient(url) as client:
        await run(client, _WARMUP_SECONDS)
        server, own, begin = usage(process)[0], time.process_time(), time.monotonic()
        requests = await run(client, seconds)
        return {
            "requests": requests,
            "seconds": time.monotonic() - begin,
            "server_cpu": usage(process)[0] - server,
            "client_cpu": time.process_time() - own,
        }


if __name__ == "__main__":
    url, model, side, seconds = sys.argv[1:]
    print(json.dumps(uvloop.run(_measure(url, model, int(side), float(seconds)))))

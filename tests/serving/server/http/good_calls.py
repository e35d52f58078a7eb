"""A server of fake engines, and a good call of one over REST."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.in_process import InProcess, in_process

INFER = "/v2/models/plain/infer"
GOOD: dict[str, Any] = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]
}
Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def with_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [GOOD["inputs"][0] | changes]}


def as_json(document: Any) -> bytes:
    """Also of what aiohttp's client would refuse to send."""
    return json.dumps(document).encode()

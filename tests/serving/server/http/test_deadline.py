"""REST calls end: by a header, by the server's setting, or with their caller."""

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import InvalidInput
from serving.server.http.deadline import timeout_of
from tests.support.in_process import InProcess, in_process

INFER = "/v2/models/plain/infer"
GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}


def serve_blocked(
    folder: Path, scenario: Callable[[InProcess, threading.Event], Awaitable[None]], **settings: Any
) -> None:
    """Runs a scenario on a server whose engine works until the event is set."""

    async def run() -> None:
        async with in_process(folder, **settings) as served:
            engine, open_gate = served.engines["plain"], threading.Event()
            infer = engine.infer

            def blocked(inputs: Any) -> Any:
                assert open_gate.wait(10)
                return infer(inputs)

            engine.infer = blocked  # type: ignore[method-assign]
            try:
                await scenario(served, open_gate)
            finally:
                open_gate.set()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)  # between two looks at a condition


@pytest.mark.parametrize(
    "headers", [{"Grpc-Timeout": "50m"}, {"X-Envoy-Expected-Rq-Timeout-Ms": "50"}]
)
def test_call_ends_when_its_caller_gives_up(tmp_path: Path, headers: dict[str, str]) -> None:
    async def scenario(served: InProcess, _: threading.Event) -> None:
        # The first waits for the engine, the second for the first.
        calls = [served.rest("POST", INFER, json=GOOD, headers=headers) for _ in range(2)]
        for status, answer in await asyncio.gather(*calls):
            assert (status, set(answer)) == (504, {"error"})
        assert served.front.running == 0

    serve_blocked(tmp_path, scenario)


def test_call_without_a_deadline_ends_at_that_of_the_server(tmp_path: Path) -> None:
    async def scenario(served: InProcess, _: threading.Event) -> None:
        status, answer = await served.rest("POST", INFER, json=GOOD)
        assert status == 504
        assert "within 0.05 s" in answer["error"]

    serve_blocked(tmp_path, scenario, rest_timeout=0.05)


def test_caller_that_leaves_takes_his_call_out_of_the_queue(tmp_path: Path) -> None:
    async def scenario(served: InProcess, open_gate: threading.Event) -> None:
        first = asyncio.create_task(served.rest("POST", INFER, json=GOOD))
        await until(lambda: served.front.running == 1)
        second = asyncio.create_task(served.rest("POST", INFER, json=GOOD))
        await until(lambda: served.front.running == 2)
        # Each body is held once.
        size = 2 * len(json.dumps(GOOD))
        await until(lambda: served.value("convserve_memory_held_bytes", use="message") == size)
        second.cancel()
        await until(lambda: served.front.running == 1)
        assert served.value("convserve_cancelled_total", model="plain") == 1
        open_gate.set()
        assert (await first)[0] == 200
        assert served.value("convserve_memory_held_bytes", use="message") == 0

    serve_blocked(tmp_path, scenario)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, math.inf),
        ({"Grpc-Timeout": "2S"}, 2),
        ({"Grpc-Timeout": "3M"}, 180),
        ({"Grpc-Timeout": "1H"}, 3600),
        ({"Grpc-Timeout": "250m"}, 0.25),
        ({"Grpc-Timeout": "250u"}, 0.00025),
        ({"Grpc-Timeout": "99999999n"}, 0.099999999),
        ({"X-Envoy-Expected-Rq-Timeout-Ms": "1500"}, 1.5),
        ({"X-Envoy-Expected-Rq-Timeout-Ms": "0"}, math.inf),
        ({"X-Envoy-Expected-Rq-Timeout-Ms": "1500", "Grpc-Timeout": "1S"}, 1),
    ],
)
def test_headers_say_how_long_a_caller_waits(headers: dict[str, str], seconds: float) -> None:
    assert timeout_of(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["Grpc-Timeout", "X-Envoy-Expected-Rq-Timeout-Ms"])
@pytest.mark.parametrize("value", ["", "-1", "1e3", "S", "9" * 5000, "1.5S", "1 S", "nan", "²S"])
def test_header_that_is_no_time_is_bad_input(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name) as refusal:
        timeout_of({name: value})
    assert len(str(refusal.value)) < 400

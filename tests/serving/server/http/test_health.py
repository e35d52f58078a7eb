"""What people and Prometheus ask of a server beside its calls."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.server.endpoints.admin import Admin
from tests.support.in_process import InProcess, in_process

Scenario = Callable[[InProcess], Awaitable[None]]
INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0] * 6}]}


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_batches_are_listed_by_model_with_their_time_of_day_their_engine_and_their_limit(
    tmp_path: Path,
) -> None:
    async def scenario(served: InProcess) -> None:
        began = time.time()
        for _ in range(3):
            assert (await served.rest("POST", "/v2/models/plain/infer", json=INFER))[0] == 200
        _, found = await served.rest("GET", "/debug/batches")
        assert {name: len(batches) for name, batches in found.items()} == {
            "colours/1": 0, "regions/1": 0, "points/1": 0, "plain/1": 3,
        }  # fmt: skip
        batch = found["plain/1"][-1]
        assert (batch["rows"], batch["calls"], batch["left_waiting"]) == (2, 1, 0)
        assert (batch["limited_by"], batch["failed"]) == ("empty", False)
        assert (batch["engine"], batch["variant"]) == ("fake", "fp32")
        assert began - 0.1 < batch["at"] < time.time() + 0.1
        assert 0 < batch["infer"] <= batch["took"]
        _, one = await served.rest("GET", "/debug/batches?model=plain")
        assert list(one) == ["plain/1"]
        assert [b["started"] for b in one["plain/1"]] == [b["started"] for b in found["plain/1"]]

    serve(tmp_path, scenario)


@pytest.mark.parametrize("name", ["absent", "", "x" * 5000, "../colours", "\u202e"])
def test_batches_of_a_model_that_is_not_there_are_not_found(name: str, tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        async with served.http.get("/debug/batches", params={"model": name}) as answer:
            assert answer.status == 404
            error = (await answer.json())["error"]
        assert error.startswith("no model '")
        assert len(error) < 500

    serve(tmp_path, scenario)


def test_metrics_on_the_rest_port_are_the_servers_packed_as_the_caller_takes_them(
    tmp_path: Path,
) -> None:
    unpacked: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "identity": lambda data: data,
    }

    async def scenario(served: InProcess) -> None:
        await served.rest("POST", "/v2/models/plain/infer", json=INFER)
        served.http._auto_decompress = False
        texts = set()
        for coding, unpack in unpacked.items():
            headers = {"Accept-Encoding": coding}
            async with served.http.get("/debug/metrics", headers=headers) as answer:
                assert answer.headers.get("Content-Encoding", "identity") == coding
                text = unpack(await answer.read()).decode()
            samples = {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            where = (("model", "plain"), ("version", "1"))
            assert samples["nv_inference_count", *where] == 2
            texts.add(frozenset(key for key in samples if key[0] != "convserve_memory_held_bytes"))
        assert len(texts) == 1

    serve(tmp_path, scenario)


class _Slow(Collector):
    """Metrics whose making takes until somebody lets it end."""

    def __init__(self) -> None:
        self.began, self.ends = Event(), Event()

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("slow", "Slow.")

    def collect(self) -> Iterator[Metric]:
        self.began.set()
        assert self.ends.wait(10)
        yield GaugeMetricFamily("slow", "Slow.", value=1)


def test_calls_are_answered_while_the_metrics_are_made(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        slow = _Slow()
        served.metrics.registry.register(slow)
        asked = [asyncio.create_task(served.http.get("/debug/metrics")) for _ in range(8)]
        while not slow.began.is_set():
            await asyncio.sleep(0.001)
        # Those that ask for something of other threads are answered too, however many ask for text.
        assert (await served.rest("POST", "/v2/models/plain/infer", json=INFER))[0] == 200
        assert (await served.rest("GET", "/debug/batches"))[0] == 200
        assert not any(task.done() for task in asked)
        slow.ends.set()
        for task in asked:
            async with await task as answer:
                assert answer.status == 200
                assert "slow 1.0" in await answer.text()

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("admin", "offered"),
    [
        (Admin("off", explicit=True, memory=True), False),
        (Admin("socket", explicit=True, memory=True), False),
        (Admin("open", explicit=False, memory=True), False),
        (Admin("open", explicit=True, memory=True), True),
        (Admin("off", {"repository"}, explicit=True, memory=True), True),
        (Admin("off", {"settings"}, explicit=True, memory=True), False),
    ],
)
def test_rights_name_the_models_that_a_load_call_would_be_taken_for(
    admin: Admin, offered: bool, tmp_path: Path
) -> None:
    async def scenario(served: InProcess) -> None:
        _, rights = await served.rest("GET", "/v2/repository/rights")
        assert rights == {"load": sorted(served.engines) if offered else []}
        for name in served.engines:
            path = f"/v2/repository/models/{name}/unload"
            status, _ = await served.rest("POST", path, json={})
            assert status == (200 if offered else 403)

    serve(tmp_path, scenario, admin=admin)

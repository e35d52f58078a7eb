"""Each side of a server starts without the other."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serving.base.counting.totals import Totals
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.models.catalogue import Catalogue
from serving.models.facts import ModelFacts
from serving.models.workers import Workers
from serving.repository.places.repositories import Repositories
from serving.server.config import ServerConfig
from serving.server.runtime import Runtime
from serving.server.wires import Wires
from tests.support.published import publish


class Sides:
    """Both, each made for one process but sharing this one; a test starts what it needs."""

    def __init__(self, repository: Path, workers: Workers, **settings: Any) -> None:
        config = ServerConfig(
            model_repository=repository,
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            admin="off",
            cache_dir=repository.parent / "cache",
            drain_seconds=0.5,
            **settings,
        )
        front, engine = FrontMetrics(), EngineMetrics()
        self.totals = Totals(front, engine)
        self.catalogue = Catalogue(Repositories.of(repository), workers, front)
        self.runtime = Runtime(config, self.catalogue, engine)
        self.wires = Wires(config, self.catalogue, self.runtime.loader, front, self.totals)

    async def loaded(self) -> None:
        changed = asyncio.Event()
        self.catalogue.on_change(changed.set)
        self.runtime.start()
        async with asyncio.timeout(30):
            while not self.catalogue.ready(strict=True):
                await changed.wait()
                changed.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[aiohttp.ClientSession]:
        addresses = await self.wires.start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{addresses.http}") as http:
            yield http
        await self.wires.close(asyncio.get_running_loop().time())


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    publish(tmp_path / "repository")
    with Workers(1) as workers:
        yield Sides(tmp_path / "repository", workers)


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ("explicit", "no model is loaded: load one by POST /v2/repository/models/MODEL/load"),
        ("none", "no model was found: see that --model-repository has MODEL/VERSION/model.onnx"),
    ],
)
def test_a_server_without_models_says_what_to_do(tmp_path: Path, control: str, said: str) -> None:
    (tmp_path / "repository").mkdir()

    async def run(workers: Workers) -> None:
        sides = Sides(tmp_path / "repository", workers, model_control=control)
        async with sides.serving() as http:
            sides.runtime.start()
            await sides.runtime.looked.wait()
            answer = await http.get("/readyz")
            assert answer.status == 503
            assert (await answer.text()).startswith(f"not ready\n{said}")
        await sides.runtime.ended()
        await sides.runtime.loader.close()

    with Workers(1) as workers:
        asyncio.run(run(workers))


def test_wires_answer_for_a_catalogue_that_somebody_else_fills(sides: Sides) -> None:
    async def run() -> None:
        async with sides.serving() as http:
            assert (await http.get("/livez")).status == 200
            assert (await http.get("/readyz")).status == 503
            assert (await http.get("/v2/models/colours")).status == 404
            await sides.loaded()
            assert (await http.get("/readyz")).status == 200
            assert (await http.get("/v2/models/colours/ready")).status == 200
        await sides.runtime.loader.close()

    asyncio.run(run())


def test_models_are_loaded_and_described_without_any_port(sides: Sides) -> None:
    async def run() -> None:
        await sides.loaded()
        [model] = sides.catalogue.models()
        assert ModelFacts.from_json(model.facts.to_json()) == model.facts
        _, engine = sides.totals.now()
        assert engine.model_ready.labels("colours", "1").value == 1
        json.dumps(engine.snapshot())
        await sides.runtime.loader.close()
        await sides.runtime.ended()

    asyncio.run(run())

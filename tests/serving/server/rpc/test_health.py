"""Watchers of health: all are told of a change, and however many there are, others have turns."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serving.models.catalogue import Catalogue
from serving.repository.places.repositories import Repositories
from serving.server.endpoints.health import Health
from serving.server.rpc.health import HealthService

WATCHERS = 5000


class Watcher:
    """Watches one name. told: the states that it was told."""

    def __init__(self, service: str = "") -> None:
        self._asked = HealthCheckRequest(service=service).SerializeToString()
        self.told: list[int] = []

    async def read(self) -> bytes:
        return self._asked

    async def write(self, message: bytes) -> None:
        self.told.append(HealthCheckResponse.FromString(message).status)


def test_watchers_are_told_in_turns_and_each_of_them_in_the_end() -> None:
    async def run() -> None:
        catalogue = Catalogue(Repositories.of(Path()), Any, Any)  # type: ignore[arg-type]
        health = Health(catalogue, strict=False)
        front: Any = SimpleNamespace(seen_by=lambda _: lambda _: True)
        service = HealthService(front, health, ())
        watchers = [Watcher("live" if number % 2 else "") for number in range(WATCHERS)]
        tasks = [asyncio.ensure_future(service.Watch(one)) for one in watchers]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert {one.told[0] for one in watchers} == {
            HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
        }  # fmt: skip
        for task in tasks[-1000:]:
            task.cancel()
        await asyncio.sleep(0)
        assert len(service._waiting) == WATCHERS - 1000
        health.ready = lambda: True  # type: ignore[method-assign]
        rounds, told = 0, 0
        service.drain()
        while told < (WATCHERS - 1000) / 2:
            await asyncio.sleep(0)
            now = sum(len(one.told) == 2 for one in watchers)
            assert now - told <= 100
            rounds, told = rounds + 1, now
        assert rounds > 20
        assert all(one.told[-1] == HealthCheckResponse.SERVING for one in watchers[:-1000])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not service._waiting

    asyncio.run(run())

"""The metrics are there when they matter most: while the server has no memory left."""

import asyncio
from pathlib import Path

import aiohttp
from prometheus_client import Gauge

from serving.server.config import ServerConfig
from serving.server.server import Server


def test_metrics_are_answered_while_calls_hold_all_memory(tmp_path: Path) -> None:
    async def run() -> None:
        server = Server(
            ServerConfig(
                model_repository=tmp_path,
                grpc_port=0,
                http_port=0,
                metrics_port=0,
                cache_dir=tmp_path / "cache",
                admin_socket=tmp_path / "socket",
            )
        )
        addresses = await server.start()
        many = Gauge("many", "Samples.", ["name"], registry=server.totals.registry)
        for number in range(3000):
            many.labels(f"a model of a long name, {number}").set(number)
        budget = server.wires.budget
        budget.keep("message", budget.limit)
        url = f"http://127.0.0.1:{addresses.metrics}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            assert response.status == 200
            assert budget.held("answer") == 0
            text = await response.text()
        assert text.count("\nmany{") == 3000
        budget.give_back("message", budget.limit)
        await server.stop()

    asyncio.run(run())

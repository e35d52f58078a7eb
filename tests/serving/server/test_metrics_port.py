"""The metrics are there when they matter most: while the server has no memory left."""

import asyncio
import urllib.request
from pathlib import Path

import aiohttp
from prometheus_client import Gauge, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from serving.server.config import ServerConfig
from serving.server.server import Server
from tests.support.process import ServerProcess


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


def test_open_metrics_are_for_those_who_accept_them(server: ServerProcess) -> None:
    accepts = {
        "": "text/plain",
        "*/*": "text/plain",
        "text/plain;version=0.0.4": "text/plain",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5": "openmetrics-text",
    }
    names = {}
    for accept, kind in accepts.items():
        request = urllib.request.Request(server.metrics_url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert kind in response.headers["Content-Type"]
            text = response.read().decode()
        parse = parser if kind == "text/plain" else openmetrics_parser
        families = list(parse.text_string_to_metric_families(text))
        names[kind] = {sample.name for family in families for sample in family.samples}
    assert names["text/plain"] == names["openmetrics-text"]
    assert {"nv_inference_count", "convserve_model_ready"} <= names["text/plain"]

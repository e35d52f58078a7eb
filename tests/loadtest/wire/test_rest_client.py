"""The REST client against a small server of the Open Inference Protocol."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.errors import LoadTestError
from loadtest.payloads.content import Payload
from loadtest.results import OK, UNCHECKED
from loadtest.wire import rest_client
from loadtest.wire.messages import rest_request
from loadtest.wire.prepare import PayloadSource, prepare
from loadtest.wire.rest_client import RestClient, describe

JSON_LENGTH = "Inference-Header-Content-Length"


class RestServer:
    """Doubles a tensor, slowly where asked to."""

    def __init__(self, *, binary: bool) -> None:
        self._binary = binary
        self.bodies: list[tuple[dict[str, Any], bytes]] = []
        self.status = 200
        self.config: Any = None
        self.delay = 0.0
        self.padding = 0
        self.chunked = False

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v2", self._server)
        application.router.add_get("/v2/models/double", self._model)
        application.router.add_get("/v2/models/double/config", self._config)
        application.router.add_post("/v2/models/double/infer", self._infer)
        return application

    async def _server(self, request: web.Request) -> web.Response:
        extensions = ["binary_tensor_data"] if self._binary else []
        return web.json_response({"name": "test", "extensions": extensions})

    async def _model(self, request: web.Request) -> web.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
        return web.json_response({"name": "double", "inputs": [tensor], "outputs": [tensor]})

    async def _config(self, request: web.Request) -> web.Response:
        if self.config is None:
            raise web.HTTPNotFound
        return web.json_response(self.config)

    async def _infer(self, request: web.Request) -> web.Response:
        content = await request.read()
        length = int(request.headers.get(JSON_LENGTH, len(content)))
        self.bodies.append((json.loads(content[:length]), content[length:]))
        await asyncio.sleep(self.delay)
        if self.status != 200:
            return web.json_response({"error": "no"}, status=self.status)
        output = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": ["0.7:3:cat"]}
        document = {"model_name": "x" * self.padding + "double", "outputs": [output]}
        response = web.json_response(document)
        if self.chunked:
            response.enable_chunked_encoding()
        if request.headers.get("Accept-Encoding") != "identity":
            response.enable_compression(web.ContentCoding.deflate)
        return response


def with_server(server: RestServer, use: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        runner = web.AppRunner(server.application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            await use(f"http://127.0.0.1:{port}")
        finally:
            await runner.cleanup()

    asyncio.run(run())


@pytest.mark.parametrize("binary", [True, False])
def test_a_tensor_is_binary_where_the_server_takes_that(binary: bool) -> None:
    server = RestServer(binary=binary)

    async def use(url: str) -> None:
        (facts,), offered = await describe(url, ["double"])
        assert offered is binary
        payload = Payload(tensors={"x": np.array([[1.5, 2.5]], np.float32)})
        client = RestClient(url, 10.0)
        answer = await client.call(rest_request(0, facts, payload, binary=offered), 0, 0)
        await client.close()
        assert answer == (OK, UNCHECKED, 0, 0, 0, 0, 0)

    with_server(server, use)
    ((head, tail),) = server.bodies
    (tensor,) = head["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", "FP32", [1, 2])
    values = np.frombuffer(tail, np.float32).tolist() if binary else tensor["data"]
    assert values == [1.5, 2.5]


def test_answers_statuses_and_deadlines() -> None:
    server = RestServer(binary=True)

    async def use(url: str) -> None:
        (facts,), _ = await describe(url, ["double"])
        tensors = {"x": np.zeros((1, 2), np.float32)}
        client = RestClient(url, 10.0)
        for expected, right in (("cat", 1), ("dog", 0)):
            payload = Payload(tensors=tensors, expected=(expected,))
            request = rest_request(0, facts, payload, binary=True)
            assert (await client.call(request, 0, 0))[:2] == (OK, right)
        for status, code in ((429, 8), (503, 14), (404, 5), (418, 2)):
            server.status = status
            assert (await client.call(request, 0, 0))[0] == code
        server.status, server.delay = 200, 1.0
        assert (await client.call(request, 0.05, 0))[0] == 4
        await client.close()

    with_server(server, use)


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_of_any_size_is_not_taken(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_client, "MOST_BYTES", 1 << 20)
    server = RestServer(binary=True)
    server.padding, server.chunked = 2 << 20, chunked

    async def use(url: str) -> None:
        (facts,), _ = await describe(url, ["double"])
        payload = Payload(tensors={"x": np.zeros((1, 2), np.float32)})
        client = RestClient(url, 10.0)
        answer = await client.call(rest_request(0, facts, payload, binary=True), 0, 0)
        await client.close()
        assert answer[0] == 8

    with_server(server, use)


def test_credentials_follow_no_redirect() -> None:
    """To another server, or from TLS to none."""
    other = RestServer(binary=True)

    async def use(url: str) -> None:
        async def elsewhere(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(url + request.path)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", elsewhere)
        async with TestServer(application) as server:
            first, key = str(server.make_url("")), {"x-api-key": "secret"}
            with pytest.raises(LoadTestError, match="/v2: HTTP 307"):
                await describe(first, ["double"], None, key)
            (facts,), _ = await describe(url, ["double"])
            payload = Payload(tensors={"x": np.zeros((1, 2), np.float32)})
            client = RestClient(first, 10.0, None, key)
            assert (await client.call(rest_request(0, facts, payload, binary=True), 0, 0))[0] == 2
            await client.close()

    with_server(other, use)
    assert other.bodies == []


def test_what_does_not_answer_or_has_no_such_model_is_named() -> None:
    async def use(url: str) -> None:
        with pytest.raises(LoadTestError, match="/v2/models/other: HTTP 404"):
            await describe(url, ["other"])
        with pytest.raises(LoadTestError, match=r"no server answers at http://127\.0\.0\.1:1 "):
            await describe("http://127.0.0.1:1", ["double"])

    with_server(RestServer(binary=True), use)


def test_images_go_into_the_input_that_the_config_names(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"\xff\xd8 no text")
    server = RestServer(binary=True)
    server.config = {"parameters": {"encoded_image_input": {"string_value": "encoded"}}}

    async def use(url: str) -> None:
        contents = {"double": PayloadSource(labelled=tmp_path, rows=2)}
        prepared = await asyncio.to_thread(prepare, url, contents, api="auto", seed=0)
        client = RestClient(url, 10.0)
        answer = await client.call(prepared.requests[0], 0, 0)
        await client.close()
        assert answer[:2] == (OK, 1)

    with_server(server, use)
    ((head, tail),) = server.bodies
    (tensor,) = head["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("encoded", "BYTES", [2])
    image = (10).to_bytes(4, "little") + b"\xff\xd8 no text"
    assert tail == image * 2
    assert tensor["parameters"] == {"binary_data_size": len(tail)}


@pytest.mark.parametrize("config", [None, [], {}, {"parameters": None}, {"parameters": {"a": 1}}])
def test_a_model_without_an_input_for_images_is_named(config: Any, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"jpeg")
    server = RestServer(binary=True)
    server.config = config

    async def use(url: str) -> None:
        contents = {"double": PayloadSource(images=tmp_path)}
        with pytest.raises(LoadTestError, match=r"'double' has no input for image files .*: x\)"):
            await asyncio.to_thread(prepare, url, contents, api="auto", seed=0)

    with_server(server, use)

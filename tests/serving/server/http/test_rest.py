"""The REST wire on a fake engine: paths, headers, null, and answers under pressure."""

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from serving.base.turns import Readers, Turns
from serving.server.http.connections import HttpLimits
from tests.serving.server.http.good_calls import GOOD, INFER, as_json, serve, with_input
from tests.support.in_process import InProcess


@pytest.mark.parametrize("field", ["parameters", "outputs", "id"])
def test_null_in_a_call_is_absent(tmp_path: Path, field: str) -> None:
    async def scenario(served: InProcess) -> None:
        status, answer = await served.rest("POST", INFER, json=GOOD | {field: None})
        assert (status, len(answer["outputs"])) == (200, 2)
        assert "id" not in answer

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (INFER, with_input(parameters=None), 200),
        (INFER, with_input(parameters={"binary_data_size": None}), 200),
        (INFER, with_input(parameters={"shared_memory_region": None}), 200),
        (INFER, GOOD | {"parameters": {"timeout": None, "priority": None}}, 200),
        (INFER, GOOD | {"outputs": [{"name": "y", "parameters": None}]}, 200),
        (INFER, GOOD | {"outputs": [{"name": "y", "parameters": {"classification": None}}]}, 200),
        (INFER, {"inputs": None}, 400),
        (INFER, with_input(shape=None), 400),
        (INFER, with_input(data=None), 400),
        ("/v2/repository/index", {"ready": None}, 200),
        ("/v2/repository/models/colours/load", {"parameters": None}, 404),
        ("/v2/repository/models/colours/load", {"parameters": {"config": None}}, 404),
        ("/v2/systemsharedmemory/region/r/register", {"key": None, "byte_size": 4}, 400),
        ("/v2/logging", {"log_info": None, "log_file": None}, 200),
        ("/v2/trace/setting", {"trace_rate": None}, 200),
    ],
)
def test_null_is_absent_in_every_body(tmp_path: Path, path: str, body: Any, status: int) -> None:
    async def scenario(served: InProcess) -> None:
        assert (await served.rest("POST", path, json=body))[0] == status

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "name", ["9" * 5000, "a%00b", "%ff%fe", "a%2Fb", "%ed%a0%80", "a%0Ab", "%"]
)
def test_names_that_nothing_has_are_not_found(tmp_path: Path, name: str) -> None:
    async def scenario(served: InProcess) -> None:
        base = str(served.http._base_url).rstrip("/")
        for method, path in (
            ("GET", f"/v2/models/{name}"),
            ("GET", f"/v2/models/{name}/config"),
            ("GET", f"/v2/models/{name}/stats"),
            ("GET", f"/v2/models/plain/versions/{name}"),
            ("POST", f"/v2/models/{name}/infer"),
            ("POST", f"/v2/models/plain/versions/{name}/infer"),
            ("GET", f"/v2/models/{name}/trace/setting"),
            ("POST", f"/v2/repository/models/{name}/load"),
            ("POST", f"/v2/repository/models/{name}/unload"),
        ):
            status, answer = await served.rest(method, URL(base + path, encoded=True))
            assert (status, set(answer)) == (404, {"error"}), path
            assert len(answer["error"]) < 600

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nope", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/", 404),
        ("POST", INFER + "/", 404),
        ("OPTIONS", "/v2/nope", 404),
        ("GET", INFER, 405),
        ("OPTIONS", INFER, 405),
        ("PUT", INFER, 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/models/" + "x" * 20_000, 400),
    ],
)
def test_paths_and_methods_that_are_not_there_are_errors_of_the_protocol(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async def scenario(served: InProcess) -> None:
        found, answer = await served.rest(method, path)
        assert (found, set(answer)) == (status, {"error"})

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/nonsense; charset=nope"}, 200),
        ({"Content-Encoding": "nope"}, 200),
        ({"Expect": "nope"}, 417),
        ({"X": "x" * 20_000}, 400),
    ],
)
def test_odd_headers_are_passed_over_or_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async def scenario(served: InProcess) -> None:
        found, answer = await served.rest("POST", INFER, json=GOOD, headers=headers)
        assert found == status
        assert ("error" in answer) == (status != 200)

    serve(tmp_path, scenario)


def test_head_is_answered_as_get_without_a_body(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        assert await served.rest("HEAD", "/v2/models/plain") == (200, None)

    serve(tmp_path, scenario)


@pytest.mark.parametrize(("accepted", "compressed"), [("gzip", True), ("gzip;q=0", False)])
def test_answer_is_compressed_where_that_is_accepted(
    tmp_path: Path, accepted: str, compressed: bool
) -> None:
    async def scenario(served: InProcess) -> None:
        headers = {"Accept-Encoding": accepted}
        async with served.http.post(INFER, json=GOOD, headers=headers) as response:
            assert ("Content-Encoding" in response.headers) == compressed
            assert (await response.json())["model_name"] == "plain"

    serve(tmp_path, scenario)


def test_answer_is_given_although_memory_is_full_when_it_is_ready(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        engine, budget = served.engines["plain"], served.front.budget
        infer = engine.infer

        def filling(inputs: Any) -> Any:
            budget.keep("message", budget.limit)
            return infer(inputs)

        engine.infer = filling  # type: ignore[method-assign]
        rows = 8
        document = with_input(shape=[rows, 3], data=[1.0] * rows * 3) | {"id": "i" * 65_000}
        status, answer = await served.rest("POST", INFER, json=document)
        assert (status, answer["id"]) == (200, document["id"])
        budget.give_back("message", budget.limit)
        assert budget.used == 0

    serve(tmp_path, scenario)


def test_waiting_for_a_turn_does_not_count_as_the_senders_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: Turns) -> None:
        await asyncio.sleep(0.15)  # other bodies have their turns

    async def scenario(served: InProcess) -> None:
        body = as_json(GOOD) + b" " * (256 << 10)
        headers = {"Content-Encoding": "gzip"}
        data = gzip.compress(body)
        status, _ = await served.rest("POST", INFER, data=data, headers=headers)
        assert status == 200

    monkeypatch.setattr(Turns, "next", late)
    serve(tmp_path, scenario, limits=HttpLimits(transfer=0.1, stall=0.1))


def test_connection_on_which_much_comes_waits_for_its_turn_to_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Callable[[], None]] = []

    async def scenario(served: InProcess) -> None:
        body = as_json(GOOD) + b" " * (900 << 10)
        asked = asyncio.create_task(served.rest("POST", INFER, data=body))
        async with asyncio.timeout(20):
            while not turns:
                await asyncio.sleep(0.001)  # the connection does not tell
        assert not (await asyncio.wait({asked}, timeout=0.1))[0]
        while not asked.done():
            while turns:
                turns.pop()()
            await asyncio.sleep(0)
        assert asked.result()[0] == 200

    monkeypatch.setattr(Readers, "wait", lambda _, go_on: turns.append(go_on))
    serve(tmp_path, scenario)

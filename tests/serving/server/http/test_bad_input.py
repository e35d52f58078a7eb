"""Whatever cannot be parsed, or cannot be, is bad input over REST, and changes nothing."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.server.http.good_calls import GOOD, INFER, as_json, serve, with_input
from tests.support.in_process import InProcess

# Every route that reads a body.
WITH_BODY = [
    INFER,
    "/v2/models/plain/versions/1/infer",
    "/v2/repository/index",
    "/v2/repository/models/plain/load",
    "/v2/repository/models/plain/unload",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/region/r/unregister",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/region/r/register",
    "/v2/cudasharedmemory/unregister",
    "/v2/trace/setting",
    "/v2/models/plain/trace/setting",
    "/v2/logging",
]


def is_bad_input(found: tuple[int, Any]) -> bool:
    """400 with a short text that gives away nothing of the inside."""
    status, answer = found
    said = answer["error"]
    return (
        status == 400 and set(answer) == {"error"} and "Traceback" not in said and len(said) < 600
    )


@pytest.mark.parametrize(
    "body", [b"[" * 2000, b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b'{"a": 1' + b"0" * 5000]
)
def test_body_that_no_parser_takes_is_bad_input_on_every_route(tmp_path: Path, body: bytes) -> None:
    async def scenario(served: InProcess) -> None:
        for path in WITH_BODY:
            assert is_bad_input(await served.rest("POST", path, data=body)), path

    serve(tmp_path, scenario)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_body_that_is_not_compressed_as_it_says_is_bad_input_on_every_route(
    tmp_path: Path, coding: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(served: InProcess) -> None:
        headers = {"Content-Encoding": coding}
        for path in WITH_BODY:
            found = await served.rest("POST", path, data=b"nonsense", headers=headers)
            assert is_bad_input(found), path
        # The next request on a connection is not taken for the rest of the last one.
        assert (await served.rest("POST", INFER, json=GOOD))[0] == 200

    serve(tmp_path, scenario)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_bad_body_that_no_route_reads_leaves_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def nonsense() -> AsyncIterator[bytes]:
        yield b"nonsense"

    async def scenario(served: InProcess) -> None:
        headers = {"Content-Encoding": "gzip", "Connection": "close"}
        for method, path in (("GET", "/v2"), ("POST", "/nope"), ("PUT", INFER)):
            await served.rest(method, path, data=nonsense(), headers=headers)
        assert (await served.rest("POST", INFER, json=GOOD))[0] == 200

    serve(tmp_path, scenario)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_bodies_past_the_limit_are_413_compressed_or_not(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        for path in WITH_BODY:
            status, answer = await served.rest("POST", path, data=b" " * 5000)
            assert (status, set(answer)) == (413, {"error"}), path
        packed = {"data": gzip.compress(b" " * 100_000), "headers": {"Content-Encoding": "gzip"}}
        assert (await served.rest("POST", INFER, **packed))[0] == 413

    serve(tmp_path, scenario, max_body=4096)


@pytest.mark.parametrize(
    "body",
    [
        GOOD | {"parameters": {"timeout": 10**400}},
        GOOD | {"parameters": {"timeout": "9" * 5000}},
        GOOD | {"parameters": {"priority": 10**400}},
        GOOD | {"parameters": {"priority": -1}},
        with_input(shape=[10**400]),
        with_input(shape=[10**4000] * 10),
        with_input(shape=[2**62, 2**62]),
        with_input(shape=[1] * 70),
        with_input(data=[10**400] * 3),
        with_input(data=[[1, 2], [3]]),
        with_input(data=[None, 1, 2]),
        with_input(data=json.loads("[" * 900 + "1" + "]" * 900)),
        with_input(datatype="BYTES", data=["\ud800", "a", "b"]),
        with_input(name="\ud800"),
        with_input(name="x" * 100_000),
        with_input(name="a\0b\n"),
        with_input(datatype="\0" * 100_000),
        with_input(parameters={"binary_data_size": 10**400}),
        with_input(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 10**400}),
        GOOD | {"outputs": [{"name": "y" * 100_000}]},
        GOOD | {"outputs": [{"name": "y", "parameters": {"classification": "2"}}]},
    ],
    ids=lambda body: str(body)[-60:],
)
def test_values_that_no_tensor_has_are_bad_input(tmp_path: Path, body: Any) -> None:
    async def scenario(served: InProcess) -> None:
        assert is_bad_input(await served.rest("POST", INFER, data=as_json(body)))

    serve(tmp_path, scenario)


@pytest.mark.parametrize("given", ["9" * 5000, "-1", "1e3", "", "x", "0x10"])
def test_json_length_that_is_none_is_bad_input(tmp_path: Path, given: str) -> None:
    async def scenario(served: InProcess) -> None:
        headers = {"Inference-Header-Content-Length": given}
        status, answer = await served.rest("POST", INFER, json=GOOD, headers=headers)
        assert is_bad_input((status, answer))
        assert "Inference-Header-Content-Length: expected 0 to" in answer["error"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -4096},
        {"offset": -(10**30)},
        {"offset": 10**30},
        {"byte_size": -1},
        {"byte_size": 10**400},
        {"byte_size": True},
        {"key": "a\0b"},
        {"key": "\ud800"},
        {"key": "x" * 5000},
        {"key": "../x"},
    ],
)
def test_regions_that_cannot_be_are_bad_input(tmp_path: Path, changes: dict[str, Any]) -> None:
    async def scenario(served: InProcess) -> None:
        body = as_json({"key": "convserve_none", "byte_size": 4} | changes)
        path = "/v2/systemsharedmemory/region/r/register"
        assert is_bad_input(await served.rest("POST", path, data=body))
        assert await served.rest("GET", "/v2/systemsharedmemory/status") == (200, [])

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("/v2/trace/setting", {"trace_rate": "9" * 5000}),
        ("/v2/trace/setting", {"trace_rate": "--5"}),
        ("/v2/trace/setting", {"trace_level": {}}),
        ("/v2/trace/setting", {"trace_level": [["OFF"]]}),
        ("/v2/trace/setting", {"trace_file": "/no/\0"}),
        ("/v2/trace/setting", {"x" * 100_000: "1"}),
        ("/v2/logging", {"log_verbose_level": 10**400}),
        ("/v2/logging", {"log_verbose_level": -1}),
        ("/v2/logging", {"log_file": "/no/\0"}),
        ("/v2/logging", {"log_info": "x" * 100_000}),
        ("/v2/logging", {"log_format": {}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_be_are_bad_input_and_change_nothing(
    tmp_path: Path, path: str, settings: dict[str, Any]
) -> None:
    async def scenario(served: InProcess) -> None:
        before = await served.rest("GET", path)
        status, answer = await served.rest("POST", path, data=as_json(settings))
        assert (status, set(answer)) == (400, {"error"})
        assert await served.rest("GET", path) == before

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "parameters",
    [
        {"config": "{"},
        {"config": "[" * 5000},
        {"config": '{"max_batch_size": ' + "9" * 5000 + "}"},
        {"config": '{"platform": "\\ud800"}'},
        {"config": {}},
        {"config": "{}", "file:1/a\0b": "AAAA"},
        {"config": "{}", "file:1/.": "AAAA"},
        {"config": "{}", "file:1/../x": "AAAA"},
        {"config": "{}", "file:1/" + "x" * 300: "AAAA"},
        {"config": "{}", "file:" + "9" * 5000 + "/x": "AAAA"},
        {"config": "{}", "file:1/x": "not base64!"},
        {"unknown" * 1000: "x"},
    ],
    ids=lambda value: str(value)[:40],
)
def test_overrides_that_cannot_be_are_bad_input(tmp_path: Path, parameters: dict[str, Any]) -> None:
    (tmp_path / "new").mkdir()

    async def scenario(served: InProcess) -> None:
        body = as_json({"parameters": parameters})
        found = await served.rest("POST", "/v2/repository/models/new/load", data=body)
        assert is_bad_input(found)
        assert (await served.rest("GET", "/v2/models/new"))[0] == 404

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("data", "kind"),
    [({}, "an object"), (3, "a number"), (None, "nothing"), ("x", "a string"), (True, "a boolean")],
)
def test_elements_that_are_no_list_are_told_in_the_words_of_json(
    tmp_path: Path, data: Any, kind: str
) -> None:
    async def scenario(served: InProcess) -> None:
        status, answer = await served.rest("POST", INFER, json=with_input(data=data))
        assert status == 400
        assert answer["error"] == f"inputs[0].data: expected a list, got {kind}"

    serve(tmp_path, scenario)

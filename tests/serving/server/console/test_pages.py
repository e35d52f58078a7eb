"""The files of the console: whole in themselves, under headers that let nothing else run."""

import asyncio
import re
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.server.console import pages
from tests.support.in_process import InProcess, in_process
from tests.support.process import ServerProcess

ROOT = Path(__file__).parents[4]
STATIC = Path(pages.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
TEXTS = {file.name: file.read_text() for file in FILES}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}

Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def url(name: str) -> str:
    return "/" if name == "index.html" else f"/console/{name}"


def test_every_file_is_served_whole_by_its_type_and_under_the_policy(tmp_path: Path) -> None:
    kinds = {
        "html": "text/html",
        "js": "text/javascript",
        "css": "text/css",
        "svg": "image/svg+xml",
    }

    async def scenario(served: InProcess) -> None:
        for name, text in TEXTS.items():
            async with served.http.get(url(name)) as answer:
                assert (answer.status, await answer.text()) == (200, text), name
                assert answer.content_type == kinds[name.rpartition(".")[2]]
                headers = answer.headers
            policy = headers["Content-Security-Policy"].split("; ")
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert not any("unsafe" in rule or "*" in rule or ":/" in rule for rule in policy)
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"

    serve(tmp_path, scenario)


def test_a_browser_that_has_a_file_is_told_so_and_one_that_has_an_old_one_gets_it(
    tmp_path: Path,
) -> None:
    async def scenario(served: InProcess) -> None:
        async with served.http.get("/") as answer:
            tag = answer.headers["ETag"]
            assert answer.headers["Cache-Control"] == "no-cache"
        for given, status in ((tag, 304), ('"old"', 200), (f'"old", {tag}', 304)):
            async with served.http.get("/", headers={"If-None-Match": given}) as answer:
                assert answer.status == status
                assert bool(await answer.read()) == (status == 200)
                assert answer.headers["ETag"] == tag
                assert "Content-Security-Policy" in answer.headers

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200),
        ("POST", "/", 405),
        ("GET", "/console", 404),
        ("GET", "/console/", 404),
        ("GET", "/console/index.html", 404),
        ("GET", "/console/%2e%2e/pages.py", 404),
        ("GET", "/console/..%2fpages.py", 404),
        ("GET", "/console/console.js/", 404),
    ],
)
def test_nothing_but_the_files_is_served(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async def scenario(served: InProcess) -> None:
        async with served.http.request(method, path) as answer:
            assert answer.status == status

    serve(tmp_path, scenario)


def test_page_is_not_served_under_a_name_that_is_not_the_servers(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        async with served.http.get("/", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421

    serve(tmp_path, scenario)


def test_files_are_open_where_the_api_wants_to_know_who_calls(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("groups: {some: {members: ['key:a'], rights: []}}")
    policy.chmod(0o600)

    async def scenario(served: InProcess) -> None:
        for path, status in (("/", 200), ("/console/api.js", 200), ("/vision/v1/models", 401)):
            async with served.http.get(path) as answer:
                assert answer.status == status, path

    serve(tmp_path, scenario, access={"policy": policy})


@pytest.mark.parametrize(("flags", "status"), [((), 200), (("--no-console",), 404)])
def test_console_is_there_unless_it_is_switched_off(
    tmp_path: Path, start_server: Callable[..., ServerProcess], flags: tuple[str, ...], status: int
) -> None:
    running = start_server(tmp_path, *flags)
    for path in ("/", "/console/console.js"):
        assert running.get(running.http + path)[0] == status
    assert running.get(f"{running.http}/vision/v1/models")[0] == 200


def test_files_ask_for_nothing_from_outside_and_hold_nothing_inline() -> None:
    for name, text in TEXTS.items():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)
        assert [x for x in addresses if x != "http://www.w3.org/2000/svg"] == [], name
    page = TEXTS["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []


def test_scripts_make_no_html_of_texts_and_run_none() -> None:
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc"
    for name, text in SCRIPTS.items():
        assert re.findall(sinks, text) == [], name


def test_every_file_is_named_by_another() -> None:
    named = {"index.html"}
    for text in TEXTS.values():
        named |= set(re.findall(r"(?:\./|console/)([\w-]+\.(?:js|css|svg))\"", text))
    assert set(TEXTS) <= named


def test_the_package_has_the_files() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["serving.server.console"]
    package = STATIC.parent
    assert {file for pattern in patterns for file in package.glob(pattern)} == set(FILES)

"""The examples of docs/clients, run as they stand against a real server process."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.process import ServerProcess
from tests.support.published import publish

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "clients"
# What the examples of each page must print, in their order.
PRINTED = {
    "python": ("red 1.0", "one.jpg red", "['red', 'green']", "digits 1 fp32"),
    "tritonclient": ("red 9.",),
    "rest": ('"name": "digits"', '"labels": [{"index": 0, "name": "red"', ":0:red"),
    "other-languages": ("",),
}


def examples_of(page: str) -> list[tuple[str, str]]:
    """Language and text of the examples of a page."""
    text = (PAGES / f"{page}.md").read_text()
    return re.findall(r"```(python|bash)\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def server_of_the_pages(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    """A server of the models that the pages name."""
    repository = tmp_path_factory.mktemp("pages")
    publish(repository, "digits", "classification")
    publish(repository, "connectors", "segmentation")
    publish(repository, "faces", "embedding")
    server = ServerProcess(repository, cache=cache)
    yield server.wait_ready()
    server.kill()


@pytest.mark.parametrize(
    ("page", "index"),
    [(page, index) for page, printed in PRINTED.items() for index in range(len(printed))],
)
def test_example_runs_and_prints(
    server_of_the_pages: ServerProcess, tmp_path: Path, page: str, index: int
) -> None:
    language, text = examples_of(page)[index]
    for program in re.findall(r"\b(curl|protoc|grpc_cpp_plugin)\b", text):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    (tmp_path / "images").mkdir()
    for name, colour in (("one", (235, 20, 20)), ("two", (20, 235, 20))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    ports = (server_of_the_pages.url, server_of_the_pages.http)
    for port, address in zip((8001, 8000), ports, strict=True):
        text = text.replace(f":{port}", f":{address.rpartition(':')[2]}")
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-ec"]
    done = subprocess.run(
        [*command, text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PRINTED[page][index] in done.stdout
    if "protoc" in text:
        made = {path.name for path in (tmp_path / "stubs").iterdir()}
        assert made >= {"vision.pb.h", "vision.grpc.pb.h"}


def test_every_example_has_what_it_prints() -> None:
    found = {path.stem: len(examples_of(path.stem)) for path in PAGES.glob("*.md")}
    assert {page: count for page, count in found.items() if count} == {
        page: len(printed) for page, printed in PRINTED.items()
    }

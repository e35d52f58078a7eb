"""What every example is given: images whose labels are plain, and a port where nobody answers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.helm.tools import free_ports
from tests.pages.conftest import browser, page

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SECONDS = 120
COLOURS = {"red": (220, 30, 20), "green": (20, 200, 30), "blue": (10, 20, 200)}

__all__ = ["browser", "page"]  # fixtures of every page of ours
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image of each colour, whose name it has, in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, colour) in enumerate(COLOURS.items()):
        place = folder / str(number) / f"{name}.png"
        place.parent.mkdir()
        Image.new("RGB", (24, 16), colour).save(place)
    return folder


@pytest.fixture
def nobody() -> str:
    """An address at which no server listens."""
    [port] = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program of examples/ to its end, in a folder of its own."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        program = [sys.executable] if name.endswith(".py") else []
        return subprocess.run(
            [*program, str(EXAMPLES / name), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run

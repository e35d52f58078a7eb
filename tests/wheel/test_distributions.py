"""Wheel and source distribution: complete, nothing else in them, and at work when installed."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.published import publish

ROOT = Path(__file__).parents[2]
PACKAGES = ("convserve", "loadtest", "protos", "scoring", "serving", "training")
# Bytes of the source distribution. Data or pictures in it would be more.
LARGEST = 4 << 20

# What a new user does. It ends with the class of a red image.
PROGRAM = """
import sys
import numpy as np
import convserve
red = np.full((8, 8, 3), (210, 20, 30), np.uint8)
with convserve.Server(sys.argv[1], cache_dir=sys.argv[2]) as server, server.client() as client:
    print(client.classify("colours", red).results[0].labels[0].name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that sees nothing of this checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def tracked() -> Iterator[str]:
    """Files of the checkout that are not ignored: what is forgotten there, or left by former
    builds, is not part of a distribution."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    yield from (line for line in listed.stdout.splitlines() if (ROOT / line).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, the wheel made out of the source distribution."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = built.glob("*.whl")
    return found


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        [entry_points] = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "convserve = convserve.__main__:main" in archive.read(entry_points).decode()
    assert files == {name for name in tracked() if name.partition("/")[0] in PACKAGES}
    assert {f"{package}/py.typed" for package in PACKAGES} <= files


def test_source_distribution_holds_what_builds_the_wheel_and_nothing_else(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    assert archive.stat().st_size < LARGEST
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened if member.isfile()}
    made = {name for name in names if name.startswith("convserve.egg-info/")}
    beside = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    packaged = {name for name in tracked() if name.partition("/")[0] in PACKAGES}
    assert names - made == packaged | beside | {"PKG-INFO", "setup.cfg"}


def test_index_would_take_both(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_installed_wheel_serves_and_answers(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", place / "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", "install", *quiet, f"{wheel}[cpu]", cwd=place)
    command = place / "venv" / "bin" / "convserve"
    doctor = json.loads(run(command, "doctor", "--json", cwd=place))
    assert doctor["engines"]["onnxruntime"]["available"]
    assert doctor["engines"]["openvino"]["available"]
    (place / "models").mkdir()
    publish(place / "models")
    assert "colours" in run(command, "models", "--model-repository", "models", cwd=place)
    assert run(python, "-c", PROGRAM, "models", "cache", cwd=place) == "red\n"

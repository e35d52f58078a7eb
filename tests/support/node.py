"""Node, and the modules of its sample, for tests that run it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "node"
OLDEST_NODE = 20
INSTALL_SECONDS = 120


def missing(reason: str) -> NoReturn:
    """Fails in CI, where everything must be tested; skips elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_node() -> str:
    """The path of a node that is new enough."""
    found = shutil.which("node")
    if found is None:
        missing("node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < OLDEST_NODE:
        missing(f"node is {version.stdout.strip()}, the sample needs {OLDEST_NODE}")
    return found


def copy_sample(folder: Path) -> Path:
    """A copy of the sample in a new folder, with its modules: those that are installed beside it,
    or installed into the copy."""
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    if (SAMPLE / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(SAMPLE / "node_modules")
        return folder
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not installed, and the sample has no node_modules")
    try:
        installed = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--prefer-offline"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        missing("npm ci did not end in time")
    if installed.returncode:
        missing(f"npm ci failed: {installed.stderr.strip().splitlines()[:1]}")
    return folder

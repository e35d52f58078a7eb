"""The programs these tests run, and what happens where one is missing."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
CHART = ROOT / "helm" / "convserve"


def missing(reason: str) -> NoReturn:
    """Fails in CI, where everything must be tested; skips elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(f"{reason}; scripts/install_deploy_tools.py --system installs it")


def program(name: str) -> str:
    """The path of a program, the project's own copy first."""
    own = TOOLS / "bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def run(
    *command: str, cwd: Path = ROOT, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; whether it succeeded is for the caller to judge."""
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(command: Sequence[str], *, stdin: str = "", env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = run(*command, stdin=stdin, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback address that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]

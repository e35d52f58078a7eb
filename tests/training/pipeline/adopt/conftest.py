"""A model of others and data for it, adopted by the command."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.foreign import (
    NETWORKS,
    write_foreign,
    write_items,
)
from training.cli.adopt import app
from training.pipeline.adopt import judging


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_LATENCY_SECONDS", 0.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_foreign(tmp_path / "repository", "opset11")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items", NETWORKS["opset11"])


def adopt(model: Path, data: Path, *flags: str) -> Result:
    return CliRunner().invoke(app, ["adopt", str(model), "--data", str(data), *flags])


def refused(result: Result, status: int = 1) -> str:
    assert result.exit_code == status
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("convserve adopt: ")
    return line


def listing(model: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(model)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(model.rglob("*"))
        if file.is_file()
    }

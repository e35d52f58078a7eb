"""The notebook, executed as a reader would from its first cell to its last."""

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.conftest import EXAMPLES, ROOT

FILE = EXAMPLES / "notebook" / "first-service.ipynb"
CELL_SECONDS = 600


def outputs_of(notebook: Any) -> list[tuple[str, str]]:
    """Kind and content of everything that the cells show."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                found.append((output.name, output.text))
            else:
                found += [(kind, str(content)) for kind, content in output.data.items()]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own libraries
def test_the_notebook_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(FILE, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    )
    asyncio.run(client.async_execute())
    shown = outputs_of(notebook)
    text = "\n".join(content for kind, content in shown if kind in ("text/plain", "stdout"))
    assert "digits: published as version 1" in text
    assert ": ready>" in text
    assert "of 360 right" in text
    assert "<convserve.Server: stopped>" in text
    [table] = [content for kind, content in shown if kind == "text/html"]
    assert "int8-u8" in table
    assert sum(kind == "image/png" for kind, _ in shown) == 2


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    assert outputs_of(notebook) == []

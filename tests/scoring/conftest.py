"""A folder of images with plain answers, and jobs over it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scoring.run import Order, Outcome, opened_here, run
from scoring.scorers.scorer import Question
from scoring.sources.item import Source
from scoring.sources.opened import open_source

COUNT = 40


@pytest.fixture(autouse=True)
def home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of engines are kept there."""
    monkeypatch.setenv("HOME", str(cache))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT images in three folders, the colours in turn; one file that is no image, and names that
    are no UTF-8 or have two lines."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = rng.integers(0, 60, (20, 24, 3), np.uint8)
        pixels[..., index % 3] += 180
        folder = root / f"f{index % 3}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index:03}.jpg")
    whole = (root / "f0" / "000.jpg").read_bytes()
    (root / "broken.jpg").write_bytes(whole[:100])
    (root / "two\nlines.jpg").write_bytes(whole)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe.jpg")).write_bytes(whole)
    (root / ".hidden.jpg").write_bytes(whole)
    (root / "notes.txt").write_text("no image")
    return root


Score = Callable[..., Outcome]


@pytest.fixture
def score(colours: Path) -> Score:
    """Runs a job in this process: score(source, out, model="colours", ...)."""

    def scored(
        source: Path | str | Source,
        out: Path,
        model: str = "colours",
        masks: Path | None = None,
        most_failed: float = 0.1,
        **question: Any,
    ) -> Outcome:
        opened = open_source(str(source)) if isinstance(source, Path | str) else source
        if not question.get("servers"):
            question.setdefault("repositories", (str(colours),))
            # Two jobs would each choose the faster one, whose last digits differ.
            question.setdefault("engine", "onnxruntime")
        asked = Question(model=model, masks=masks is not None, **question)
        order = Order(opened, asked, out, masks, most_failed, shown=False)
        return run(order, opened_here(opened, masks))

    return scored


class Command:
    """`convserve score` in a process of its own.

    eager: rows are written as soon as they are there.
    before: Python that runs first.
    """

    def __init__(self, *arguments: object, eager: bool = False, before: str = "") -> None:
        lines = ["import scoring.job as job"] if eager or before else []
        lines += ["job._PART_SECONDS = 0.0"] if eager else []
        code = "\n".join([*lines, before, "from convserve.__main__ import main; main()"])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "score", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and error."""
        out, error = self.process.communicate(timeout=300)
        return self.process.returncode, out, error

    def kill(self) -> None:
        """As a machine that fails."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)

    def kill_after(self, seconds: float) -> None:
        """Kills it then, if it still runs."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        self.process.communicate(timeout=300)
        timer.cancel()


@pytest.fixture
def arguments(images: Path, colours: Path) -> tuple[object, ...]:
    """Of a job whose --out is still to be named."""
    given = ("--model", "colours", "--model-repository", colours)
    return images, *given, "--engine", "onnxruntime"


def rows_of(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()  # type: ignore[no-any-return]


def table_of_folder(folder: Path) -> pa.Table:
    """The parts of a finished job in a folder."""
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("part-*.parquet"))))


def facts_of(file: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(file).metadata[b"convserve"])  # type: ignore[no-any-return]

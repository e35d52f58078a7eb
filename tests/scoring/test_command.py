"""The command: its lines, its documents, its exit status, and what a stranger may give it."""

import json
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scoring.cli import app
from scoring.sources.folder import Folder
from tests.scoring.conftest import COUNT, Command, rows_of


def called(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and error of `convserve score` in this process."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_one_json_document_and_nothing_else_is_on_stdout(
    arguments: tuple[object, ...], tmp_path: Path
) -> None:
    status, out, error = called(*arguments, "--out", tmp_path / "o.parquet", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["images"] == document["scored_now"] == COUNT + 3
    assert (document["failed"], document["model"], document["version"]) == (1, "colours", "1")
    status, out, error = called(*arguments, "--out", tmp_path / "o.parquet", "--quiet")
    assert (status, out, error) == (0, "", "")


SLOW = """
from scoring.scorers.local import LocalScorer
import asyncio, os, pathlib
score = LocalScorer.score
async def slowly(self, images):
    pathlib.Path(os.environ["SCORED"]).touch()
    await asyncio.sleep(0.5)
    return await score(self, images)
LocalScorer.score = slowly
"""


@pytest.mark.parametrize(
    "by", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_job_that_is_stopped_says_in_one_line_how_it_goes_on(
    arguments: tuple[object, ...],
    tmp_path: Path,
    by: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored = tmp_path / "scored"
    monkeypatch.setenv("SCORED", str(scored))
    out = tmp_path / "o.parquet"
    command = Command(*arguments, "--out", out, before=SLOW)
    while not scored.exists():
        assert command.process.poll() is None
        time.sleep(0.02)  # between two looks at a condition that no event tells of
    command.process.send_signal(by)
    status, said, error = command.end()
    assert (status, said) == (130, "")
    assert error == (
        "convserve score: interrupted; the same command goes on from where this one stopped\n"
    )
    assert called(*arguments, "--out", out, "--quiet") == (0, "", "")
    assert len(rows_of(out)) == COUNT + 3


@pytest.mark.parametrize(
    ("given", "status", "reason"),
    [
        (("nowhere",), 1, "'nowhere': expected a folder of images or a URL"),
        (("",), 1, "expected a folder of images or a URL, got nothing"),
        (("s3://key:secret@bucket/x",), 1, "the URL holds a user or password"),
        (("what://x",), 1, "what://: expected s3, gs, az"),
        (("http://127.0.0.1:1/x",), 1, "http://127.0.0.1:1/x"),
        (("{images}", "--model", "absent"), 1, "no folder 'absent' in the model repository"),
        (("{images}", "--variant", "int4"), 1, "int4"),
        (("{images}", "--server", "127.0.0.1:1"), 2, "give either --server or"),
        (("{empty}",), 1, "no images in it"),
        (("{images}", "--max-failed", "2"), 2, "--max-failed"),
        (("{images}", "--out", "/proc/x/o.parquet"), 1, "--out '/proc/x/o.parquet'"),
        (("{images}", "--shards"), 1, "no images in it"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    images: Path, colours: Path, tmp_path: Path, given: tuple[str, ...], status: int, reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    source, *rest = (x.format(images=images, empty=tmp_path / "empty") for x in given)
    options = {"--model": "colours", "--model-repository": colours, "--out": tmp_path / "o.parquet"}
    options |= dict(zip(rest[::2], rest[1::2], strict=False))
    flags = [x for pair in options.items() for x in pair] + rest[len(rest) // 2 * 2 :]
    ended, out, error = called(source, *flags)
    assert (ended, out) == (status, ""), error
    assert reason in error.replace("\n", " ")
    assert "Traceback" not in error
    if status == 1:
        assert error.count("\n") == 1
    assert not (tmp_path / "o.parquet.parts").exists()


def test_wrong_model_is_told_before_the_images_are_listed(
    images: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def items(self: Folder) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(Folder, "items", items)
    options = ("--model-repository", colours, "--out", tmp_path / "o.parquet")
    status, _, error = called(images, "--model", "colour", *options)
    assert status == 1
    assert "no folder 'colour' in the model repository" in error
    masks = ("--masks", tmp_path / "masks")
    status, _, error = called(images, "--model", "colours", *options, *masks)
    assert (status, error) == (1, "convserve: --masks: colours is for classification\n")


LISTING = """
from scoring.sources.folder import Folder
import os, pathlib, time
def items(self):
    pathlib.Path(os.environ["LISTED"]).touch()
    while True:
        time.sleep(0.01)
        yield from ()
Folder.items = items
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_listing_that_is_stopped_leaves_nothing(
    arguments: tuple[object, ...],
    tmp_path: Path,
    by: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = tmp_path / "listed"
    monkeypatch.setenv("LISTED", str(listed))
    command = Command(*arguments, "--out", tmp_path / "o.parquet", before=LISTING)
    while not listed.exists():
        assert command.process.poll() is None
        time.sleep(0.02)
    command.process.send_signal(by)
    status, said, error = command.end()
    assert (status, said) == (130, "")
    assert error.count("\n") == 1
    assert list(tmp_path.glob("o.parquet*")) == []

"""A job goes on where it stopped, refuses to go on with other facts, and leaves nothing half."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring import job as jobs
from scoring.errors import ScoringError
from scoring.job import Job
from tests.scoring.conftest import COUNT, Command, Score, rows_of
from tests.support.published import publish


@pytest.fixture
def whole(images: Path, score: Score, tmp_path: Path) -> Path:
    """A table that was made without a stop."""
    score(images, tmp_path / "whole.parquet")
    return tmp_path / "whole.parquet"


@pytest.fixture
def stopped(images: Path, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a job that was stopped when all its rows were there, and lost some of them."""
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Job, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            score(images, tmp_path / "out.parquet")
    assert list((tmp_path / "out.parquet.parts").glob("part-*"))
    return tmp_path / "out.parquet"


def parts(out: Path) -> Path:
    return out.with_name("out.parquet.parts")


def test_a_job_that_was_killed_at_random_moments_has_each_row_once(
    arguments: tuple[object, ...], whole: Path, tmp_path: Path
) -> None:
    out, chance = tmp_path / "out.parquet", random.Random(24)
    for _ in range(3):
        if out.exists():
            break
        Command(*arguments, "--out", out, eager=True).kill_after(chance.uniform(0.3, 2.5))
    status, _, error = Command(*arguments, "--out", out, eager=True).end()
    assert (status, error.count("Traceback")) == (0, 0), error
    assert pq.read_table(out).equals(pq.read_table(whole))
    assert not parts(out).exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("after", [False, True])
def test_a_job_that_is_killed_at_each_write_has_each_row_once(
    arguments: tuple[object, ...], whole: Path, tmp_path: Path, step: int, after: bool
) -> None:
    out = tmp_path / "out.parquet"
    before = f"""
import os, signal
left, move = [{step}], job._move
def killed(*places):
    if not left[0]:
        {"move(*places)" if after else "pass"}
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    move(*places)
job._move = killed
job._PART_ROWS = 16
"""
    Command(*arguments, "--out", out, before=before).end()
    status, _, error = Command(*arguments, "--out", out).end()
    assert status == 0, error
    assert pq.read_table(out).equals(pq.read_table(whole))
    assert not parts(out).exists()


def test_a_job_scores_only_what_is_left(
    images: Path, stopped: Path, whole: Path, score: Score
) -> None:
    [part] = parts(stopped).glob("part-*")
    table = pq.read_table(part)
    part.unlink()
    pq.write_table(table.slice(5, 10), parts(stopped) / "part-000000000005-000000000015.parquet")
    assert score(images, stopped).scored == COUNT + 3 - 10
    assert pq.read_table(stopped).equals(pq.read_table(whole))


@pytest.mark.parametrize("damage", ["cut", "empty", "fewer", "other"])
def test_a_part_that_is_not_whole_is_made_anew(
    images: Path, stopped: Path, whole: Path, score: Score, damage: str
) -> None:
    [part] = parts(stopped).glob("part-*")
    table = pq.read_table(part)
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-20])
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        pq.write_table(table.slice(1) if damage == "fewer" else table.drop(["score"]), part)
    (parts(stopped) / ".part-1.parquet").write_bytes(b"half")
    assert score(images, stopped).scored == COUNT + 3
    assert pq.read_table(stopped).equals(pq.read_table(whole))


def test_a_source_that_has_changed_is_refused_with_the_reason(
    images: Path, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(images, mine)
    with monkeypatch.context() as patch:
        patch.setattr(Job, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(mine, tmp_path / "out.parquet")
    new = mine / "zzz.jpg"
    shutil.copy(mine / "f0" / "000.jpg", new)
    with pytest.raises(ScoringError, match=r"is not as it was when .*: 'zzz\.jpg' is new; give"):
        score(mine, tmp_path / "out.parquet")
    new.unlink()
    assert score(mine, tmp_path / "out.parquet").scored == 0
    # Of a finished one as well: its rows are not those of the folder as it is now.
    shutil.copy(mine / "f0" / "000.jpg", new)
    with pytest.raises(ScoringError, match="is not as it was when"):
        score(mine, tmp_path / "out.parquet")


def test_a_model_that_has_changed_is_refused_with_the_reason(
    images: Path, score: Score, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    publish(repository, gain=10.0)
    out = tmp_path / "out.parquet"
    asked = {"repositories": (str(repository),)}
    score(images, out, **asked)
    assert score(images, out, **asked).scored == 0
    shutil.rmtree(repository / "colours")
    publish(repository, gain=5.0)
    with pytest.raises(
        ScoringError, match=r"the model was colours version 1, .* with another sha256"
    ):
        score(images, out, **asked)
    shutil.rmtree(repository / "colours")
    publish(repository, version=2)
    with pytest.raises(ScoringError, match=r"was colours version 1.*now it is colours version 2"):
        score(images, out, **asked)
    shutil.rmtree(repository / "colours")
    publish(repository, gain=10.0)
    with pytest.raises(ScoringError, match="--top-k was 5, now it is 1"):
        score(images, out, top_k=1, **asked)
    assert len(rows_of(out)) == COUNT + 3


def test_two_processes_do_not_work_on_one_job(images: Path, score: Score, tmp_path: Path) -> None:
    with Job(tmp_path / "out.parquet"), pytest.raises(ScoringError, match="another process works"):
        score(images, tmp_path / "out.parquet")
    assert not parts(tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("name", ["out.parquet", "out", "out.parquet.parts"])
def test_files_of_something_else_are_left_alone(
    images: Path, score: Score, tmp_path: Path, name: str
) -> None:
    place = tmp_path / name
    if name == "out.parquet":
        pq.write_table(pq.read_table(pa_file(tmp_path)), place)
    else:
        place.mkdir()
        (place / ".mine").write_text("mine")
    before = place.read_bytes() if place.is_file() else (place / ".mine").read_bytes()
    out = tmp_path / ("out" if name == "out" else "out.parquet")
    with pytest.raises(ScoringError, match=r"no job made it|is no job's"):
        score(images, out)
    assert (place.read_bytes() if place.is_file() else (place / ".mine").read_bytes()) == before


def pa_file(folder: Path) -> Path:
    pq.write_table(pa.table({"a": [1]}), folder / "any.parquet")
    return folder / "any.parquet"


def test_rows_are_written_as_runs_of_neighbours(
    stopped: Path, images: Path, tmp_path: Path
) -> None:
    [part] = parts(stopped).glob("part-*")
    table = pq.read_table(part)
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = jobs.Rows(folder, table.schema, 0)
    for start in (10, 0, 5, 20):
        rows.add(start, table.slice(start, 5))
    rows.write()
    assert sorted(x.name for x in folder.iterdir()) == [
        "part-000000000000-000000000015.parquet",
        "part-000000000020-000000000025.parquet",
    ]
    first = pq.read_table(folder / "part-000000000000-000000000015.parquet")
    assert first.equals(table.slice(0, 15))

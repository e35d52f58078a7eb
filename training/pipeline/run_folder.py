"""The files of a run folder beside those of its stages, and a folder of another version."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from serving.base.files import write_whole
from training.data.survey import SHEET_FILE
from training.errors import BuildError, RecipeError
from training.evaluation.in_engines import PICTURES_FILE
from training.evaluation.report.document import State
from training.evaluation.report.from_build import report_of
from training.evaluation.report.report import write_report
from training.evaluation.report.report_file import PAGE_FILE, REPORT_FILE, read_report
from training.evaluation.searched import Searched
from training.fitting.build import Build
from training.models.checkpoint import other_version
from training.pipeline.environment import environment
from training.pipeline.stages import publish
from training.pipeline.stages.data import DATA_FILE
from training.pipeline.stages.verify import verification_of
from training.recipes import Recipe, document_of

log = logging.getLogger(__name__)

# Open run folders whose locks this process holds.
_held: set[int] = set()


@contextmanager
def one_build(run: Path) -> Iterator[None]:
    """Keeps a run folder, which it makes, for one build at a time: two would delete each other's
    stages. The system takes the lock from a build that was killed. Raises BuildError while another
    build has the folder."""
    run.mkdir(parents=True, exist_ok=True)
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _locked(folder):
            raise BuildError(
                f"{run}: another build is at work in it; wait for its end, or give another "
                "folder with --out"
            )
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        os.close(folder)


def _let_go() -> None:
    """In a worker that loads images: it outlives a build that was killed by seconds, and would keep
    the folder from the next one."""
    for folder in _held:
        os.close(folder)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def discard_other_version(run: Path, stage_names: Sequence[str]) -> None:
    """Empties a run folder whose stages another version of convserve made: neither its networks nor
    its results can be trusted, so none of them is taken."""
    stages = [name for name in stage_names if other_version(run / name)]
    if stages:
        log.info("%s was built by another version of convserve: it is built anew", run)
    for name in stages:
        shutil.rmtree(run / name)


def refuse_own_weights(recipe: Recipe, run: Path, model: str = "model") -> None:
    """Raises RecipeError where a recipe takes weights out of the run folder that its build is going
    to write: the train stage would delete them before it reads them. model: the key of its network.
    """
    teacher = recipe.distill.teacher if recipe.distill is not None else None
    for key, source in (
        (f"{model}.pretrained", recipe.model.pretrained),
        (model, recipe.model.file),
        ("distill.teacher.run", teacher.run if teacher is not None else None),
    ):
        path = Path(source) if source is not None else None
        if path is not None and path.exists() and path.resolve().is_relative_to(run.resolve()):
            raise RecipeError(
                f"{key}: {source} belongs to the run that this build writes; give the recipe "
                "another name"
            )


def write_inputs(current: Build) -> None:
    """Writes recipe.yaml and environment.json."""
    text = yaml.safe_dump(document_of(current.recipe), sort_keys=False, allow_unicode=True)
    write_whole(current.folder / "recipe.yaml", text.encode())
    _write_json(current.folder / "environment.json", environment())


def _write_json(path: Path, document: object) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def write_outputs(current: Build, searched: Searched | None, state: State) -> Path:
    """Writes data.json, metrics.json, report.json and report.html from the stages that are done so
    far; gives the last one's path."""
    metrics = {
        name: {"seconds": stage.seconds, **stage.results}
        for name, stage in current.done.items()
        if name != "data"
    }
    findings = current.done["data"].results
    _write_json(current.folder / DATA_FILE, findings)
    _write_json(current.folder / "metrics.json", metrics)
    verified, published = (current.done.get(name) for name in ("verify", "publish"))
    sheet = _arrays(current.stage_folder("data") / SHEET_FILE)
    pictures = _arrays(current.stage_folder("verify") / PICTURES_FILE) if verified else {}
    report = report_of(
        recipe=current.recipe,
        recipe_sha256=publish.recipe_sha256(current.recipe),
        created=_created(current),
        state=state,
        environment=environment(),
        findings=findings,
        sheet=sheet,
        results={name: stage.results for name, stage in current.done.items()},
        seconds={name: stage.seconds for name, stage in current.done.items()},
        verification=verification_of(current) if verified else None,
        pictures=pictures,
        repository=current.repository,
        version=published.results["version"] if published else None,
        searched=searched,
    )
    return write_report(
        current.folder, report, sheet, pictures, verified.results if verified else {}
    )


def _created(current: Build) -> str:
    """The date of the former report where this build has changed nothing, else now."""
    if not any(stage.ran for stage in current.done.values()):
        with contextlib.suppress(BuildError):
            return read_report(current.folder).created
    return datetime.now(UTC).isoformat(timespec="seconds")


def discard_report(run: Path) -> None:
    """Removes the report of a former build, of which nothing holds any more."""
    for name in (REPORT_FILE, PAGE_FILE):
        (run / name).unlink(missing_ok=True)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as arrays:
        return dict(arrays)

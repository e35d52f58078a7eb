"""The first stage: a look at the data before anything is trained on it."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from serving.base.files import write_whole
from training.data import Dataset, fingerprint, load_dataset, load_source
from training.data.survey import SHEET_FILE, survey
from training.errors import BrokenFiles
from training.fitting.build import Build
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Results
from training.pipeline.stage import Stage
from training.recipes import Recipe
from training.recipes.sections import dump, only

log = logging.getLogger(__name__)

DATA_FILE = "data.json"

_SECTIONS = ("task", "binary", "data", "fold", "transform")


def new_build(
    recipe: Recipe,
    folder: Path,
    repository: Path,
    source: Callable[[Recipe], Dataset] = load_source,
    on_epoch: OnEpoch | None = None,
) -> Build:
    """A build of which nothing is done yet. Its data are loaded once, by the sections that this
    stage's key holds."""
    seen = only(recipe, _SECTIONS)
    load = functools.cache(lambda: load_dataset(seen, source))
    return Build(recipe, folder, repository, load, on_epoch)


def work(current: Build) -> Results:
    """Tells sizes, classes and doubtful images; DATA_FILE names all broken files."""
    try:
        # As it is: the network's classes that the data lack are no fault of theirs.
        findings = survey(current.load(), current.stage_folder("data") / SHEET_FILE)
    except BrokenFiles as error:
        text = json.dumps({"broken": error.files}, indent=2, ensure_ascii=False) + "\n"
        write_whole(current.folder / DATA_FILE, text.encode())
        raise
    for warning in findings["warnings"]:
        log.warning("data: warning: %s", warning)
    return {**findings, "sha256": _identity(current.recipe)}


def _identity(recipe: Recipe) -> str:
    """Hash of the source, its files and its splits: two builds whose hashes are equal were measured
    on the same images."""
    content = [dump(recipe, ("task", "binary", "data", "fold")), fingerprint(recipe)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


STAGE = Stage(
    "data",
    sections=_SECTIONS,
    facts=lambda build: fingerprint(build.recipe),
    work=work,
)

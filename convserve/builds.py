"""`convserve.build`: the stages of a recipe, as `convserve build` runs them."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from convserve.recipes import Recipe
from convserve.reports import Report
from serving.base.machine.progress import TerminalLog
from serving.base.machine.terminal import be_quiet, is_quiet
from serving.base.storage.address import is_url
from training.errors import RecipeError
from training.pipeline.bound import parse_bound
from training.pipeline.library_logs import quiet_libraries

Stage = Literal["data", "train", "distill", "prune", "quantize", "export", "verify", "publish"]
"""The stages in their order."""


def build(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    *,
    out: str | PathLike[str] = "runs",
    model_repository: str | PathLike[str] = "model_repo",
    until: Stage | None = None,
    search: str | None = None,
    hours: float | None = None,
    quiet: bool = False,
) -> Report:
    """Trains, prunes, quantises, exports, verifies and publishes a network, as a recipe says.

    recipe: a Recipe, a recipe file or its keys as plain dicts.
    out: folder of the run folders; this run's is `out`/NAME.
    model_repository: folder in which the model is published.
    until: last stage to run.
    search: builds the best network within "latency<=MILLISECONDS" or "drop<=POINTS".
    hours: tries no more networks after so many hours of a search.
    quiet: writes nothing to standard error; the report has the warnings.

    A stage whose inputs have not changed is not run again, and a build that was interrupted goes on
    where it stopped.

    Raises RecipeError for a recipe that cannot be built, VerificationError, with the report
    written, where no variant passes its gate, and other kinds of BuildError where data, memory or
    training fail. Needs convserve[train].
    """
    settings = (recipe if isinstance(recipe, Recipe) else Recipe(recipe)).settings
    if is_url(str(model_repository)):
        raise RecipeError("model_repository: a model is published into a folder, got a URL")
    if until is not None and until not in get_args(Stage):
        raise RecipeError(f"until: expected one of {', '.join(get_args(Stage))}, got {until!r}")
    if search is not None and until is not None:
        raise RecipeError("until: a search goes through all stages")
    if hours is not None and search is None:
        raise RecipeError("hours: bounds a search; give search too")
    try:
        bound = None if search is None else parse_bound(search)
    except ValueError as error:
        raise RecipeError(f"search: {error}") from error
    # Imported here: a wrong recipe is told at once, and torch takes seconds to import.
    from training.pipeline import pipeline
    from training.pipeline.searching.search import search as run_search

    runs, repository = Path(out), Path(model_repository)
    with _quiet() if quiet else _told(), quiet_libraries():
        if bound is None:
            built = pipeline.build(settings, runs, repository, until, tell=True)
        else:
            built = run_search(settings, bound, runs, repository, hours=hours)
    return Report(built.folder)


@contextmanager
def _told() -> Iterator[None]:
    """Writes the log lines of the build to standard error, unless its caller has set up a log."""
    if logging.getLogger().handlers:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("training", "serving")]
    handler = TerminalLog()
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


@contextmanager
def _quiet() -> Iterator[None]:
    """Writes nothing; its caller's log has the warnings all the same."""
    before = is_quiet()
    be_quiet(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        be_quiet(before)

"""The stages in their order: the one file that knows it."""

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.data import Dataset, load_source
from training.errors import VerificationError
from training.evaluation.gate import require_pass
from training.evaluation.report.document import State
from training.evaluation.report.measured import as_text
from training.evaluation.searched import Searched
from training.evaluation.verification import Verification
from training.fitting.build import Build
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Finished, Results, finished, run_stage
from training.models.networks import check_network
from training.pipeline.needs import tell_needs
from training.pipeline.run_folder import (
    discard_other_version,
    discard_report,
    one_build,
    refuse_own_weights,
    write_inputs,
    write_outputs,
)
from training.pipeline.stage import Stage, Step, read_until, steps
from training.pipeline.stages import data, distill, export, prune, publish, quantize, train, verify
from training.recipes import Recipe

log = logging.getLogger(__name__)

STAGES = (
    data.STAGE,
    train.STAGE,
    distill.STAGE,
    prune.STAGE,
    quantize.STAGE,
    export.STAGE,
    verify.STAGE,
    publish.STAGE,
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class Built:
    """How a build ended.

    folder: the run folder.
    ran, kept: the stages whose work was done, and those whose former results were taken.
    version: the one that this build published; None where nothing was published.
    verification: the measurements of each variant; None where verify has not run.
    report: the HTML file.
    results: the findings of each stage.
    """

    folder: Path
    ran: tuple[str, ...]
    kept: tuple[str, ...]
    version: int | None
    verification: Verification | None
    report: Path
    results: dict[str, Results]


def build(
    recipe: Recipe,
    out: Path,
    repository: Path,
    until: str | None = None,
    *,
    searched: Searched | None = None,
    source: Callable[[Recipe], Dataset] = load_source,
    on_epoch: OnEpoch | None = None,
    tell: bool = False,
) -> Built:
    """Runs the stages of a recipe up to and including `until`, as far as they are not done yet;
    `searched` holds the networks among which the recipe was found, for the report.

    Leaves everything in OUT/NAME: a folder a stage, recipe.yaml, environment.json, data.json,
    metrics.json, report.json, report.html. `source` and `on_epoch` are for studies: see
    load_dataset and fit.
    With `tell` memory and disk are held against the build's needs once the data are known.
    Raises RecipeError, DataError, DoesNotFit, Diverged, TargetNotReached, ExportError, with the
    report written VerificationError, and BuildError while another build has the run folder.
    """
    check_recipe(recipe, until)
    refuse_own_weights(recipe, out / recipe.name)
    current = data.new_build(recipe, out / recipe.name, repository, source, on_epoch)
    with one_build(current.folder):
        return _built(current, until, searched, tell=tell)


def _built(current: Build, until: str | None, searched: Searched | None, *, tell: bool) -> Built:
    """Runs the stages of a build that has its run folder to itself."""
    discard_other_version(current.folder, STAGE_NAMES)
    write_inputs(current)
    show = functools.partial(write_outputs, current, searched)
    under_way = STAGE_NAMES[0]
    try:
        for step in steps(_stages_until(until), current):
            if tell and step.stage is not data.STAGE and _former(step) is None:
                tell_needs(current, _from(step.stage, current.recipe, until))
                tell = False
            under_way = step.stage.name
            _advance(step, show)
            if under_way == "verify":
                require_pass(verify.verification_of(current))
    except BaseException as error:
        # What was measured is shown, whether or not it is published.
        if "data" in current.done:
            with contextlib.suppress(OSError):  # the build's own error is the one to tell
                show(_ended(under_way, error))
        raise
    published = current.done.get("publish")
    last = next(reversed(current.done))
    state = State(kind="published" if published is not None else "done", stage=last)
    report = show(state)
    if published is not None and not published.ran:
        log.info("publish: nothing has changed, nothing is published")
    return Built(
        folder=current.folder,
        ran=tuple(name for name, stage in current.done.items() if stage.ran),
        kept=tuple(name for name, stage in current.done.items() if not stage.ran),
        version=published.results["version"] if published and published.ran else None,
        verification=verify.verification_of(current) if "verify" in current.done else None,
        report=report,
        results={name: stage.results for name, stage in current.done.items()},
    )


def check_recipe(recipe: Recipe, until: str | None) -> None:
    """Raises RecipeError where the network, or a stage up to `until`, cannot do what a recipe asks
    for. Nothing is trained, but pruning is tried, which takes about a second."""
    check_network(recipe)
    for stage in _stages_until(until):
        if stage.wanted(recipe):
            stage.check(recipe)


def _stages_until(until: str | None) -> tuple[Stage, ...]:
    return STAGES if until is None else STAGES[: STAGE_NAMES.index(until) + 1]


def _ended(stage: str, error: BaseException) -> State:
    """The state of a build that an error ended in a stage."""
    if not isinstance(error, Exception):
        return State(kind="interrupted", stage=stage)
    kind: Literal["refused", "failed"] = (
        "refused" if isinstance(error, VerificationError) else "failed"
    )
    return State(kind=kind, stage=stage, reason=as_text(str(error)))


def _advance(step: Step, show: Callable[[State], Path]) -> None:
    """Takes a stage's former results where its key is the same, else does its work. Meanwhile the
    report says so: nothing else would, were the build killed."""
    stage, current = step.stage, step.build
    folder = current.stage_folder(stage.name)
    former = _former(step)
    if former is not None:
        log.info("%s: unchanged, kept", stage.name)
        current.done[stage.name] = former
        return
    log.info("%s: started", stage.name)
    if "data" in current.done:
        show(State(kind="under way", stage=stage.name))
    else:
        discard_report(current.folder)
    current.done[stage.name] = run_stage(folder, step.key, lambda: stage.work(current))
    log.info("%s: done in %.1f s", stage.name, current.done[stage.name].seconds)


def _former(step: Step) -> Finished | None:
    """The results that a former build left, where they hold and still exist."""
    found = finished(step.build.stage_folder(step.stage.name), step.key)
    if found is None or not step.stage.still_there(step.build, found.results):
        return None
    return found


def _from(first: Stage, recipe: Recipe, until: str | None) -> list[Stage]:
    """The stages of a build from one on."""
    stages = _stages_until(until)
    return [stage for stage in stages[stages.index(first) :] if stage.wanted(recipe)]


def join_training(recipe: Recipe, out: Path, repository: Path) -> None:
    """The part of every process of torchrun but the first: it trains with that one, unless the
    training is done, and writes nothing. The later stages are the first one's alone. Raises as
    build does."""
    check_network(recipe)
    current = data.new_build(recipe, out / recipe.name, repository)
    for step in steps(STAGES, current):
        if step.stage.name == "train":
            done = finished(current.stage_folder("train"), step.key) is not None
            if recipe.train is not None and not done:
                train.fitted(step.build)
            return


def keys_until(recipe: Recipe, until: str) -> dict[str, str]:
    """The keys that a recipe's stages have, in their order, up to and including `until`; without
    that last one where the recipe has no such stage."""
    found = steps(_stages_until(until), data.new_build(recipe, Path(), Path()))
    return {step.stage.name: step.key for step in found}


def training_settings(recipe: Recipe, until: str) -> dict[str, Any]:
    """The values of a recipe on which its stages up to `until` depend."""
    return read_until(STAGES, recipe, until)

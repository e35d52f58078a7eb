"""The stages in their order, and what each one builds on. The one file that knows the order."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from training.data import Dataset, fingerprint, load_source
from training.data.survey import SHEET_FILE, survey
from training.errors import BrokenFiles
from training.evaluation.in_engines import PICTURES_FILE, require_pass
from training.evaluation.report.report import write_report
from training.evaluation.report.tables import Rows, measure_rows, variant_rows
from training.evaluation.verification import Searched
from training.fitting import distributed
from training.fitting.build import Build, fine_tune, network_results, new_network
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Finished, Results, finished, run_stage, stage_key
from training.fitting.train import Fitted, chosen_precision
from training.models.networks import check_network
from training.models.weights import weights_fingerprint
from training.pipeline.environment import engine_versions, environment
from training.pipeline.stages.compression import measures_latency, prune_work, quantize_work
from training.pipeline.stages.delivery import (
    export_work,
    publish_work,
    verification_of,
    verify_work,
)
from training.pipeline.stages.distill import distill_work, teacher_fingerprint
from training.pipeline.tensorrt_plans import check_plans
from training.recipes import Recipe

log = logging.getLogger(__name__)

DATA_FILE = "data.json"
_CHECKED_IMAGES = 16


@dataclass(frozen=True)
class Stage:
    """`settings` and the keys of the stages in `needs` decide whether `work` runs again."""

    name: str
    needs: Callable[[Build], tuple[str, ...]]
    settings: Callable[[Build], object]
    work: Callable[[Build], Results]
    wanted: Callable[[Build], bool] = lambda build: True


@dataclass(frozen=True)
class Built:
    """How a build ended. `version` is the one published by this build; None where nothing was.

    `rows` are the variants' table, `measures` that of what else their task measures; empty where
    verify has not run. `results` is what each stage found out.
    """

    folder: Path
    ran: tuple[str, ...]
    kept: tuple[str, ...]
    version: int | None
    rows: Rows
    measures: Rows
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
) -> Built:
    """Runs the stages of a recipe up to and including `until`, as far as they are not done yet;
    `searched` is what the recipe was found among, for the report.

    Leaves everything in OUT/NAME: a folder a stage, recipe.yaml, environment.json, data.json,
    metrics.json, report.html. `source` and `on_epoch` are for studies: see load_dataset and fit.
    Raises RecipeError, DataError, ExportError and, with the report written, VerificationError.
    """
    check_network(recipe)
    check_plans(recipe.export)
    current = Build(recipe, out / recipe.name, repository, source, on_epoch)
    current.folder.mkdir(parents=True, exist_ok=True)
    _write_inputs(current)
    for stage in STAGES:
        if stage.wanted(current):
            _advance(current, stage)
        if stage.name == "verify" and "verify" in current.done:
            _write_outputs(current, searched)
            require_pass(verification_of(current))
        if stage.name == until:
            break
    report = _write_outputs(current, searched)
    published = current.done.get("publish")
    if published is not None and not published.ran:
        log.info("publish: nothing has changed, nothing is published")
    verified = "verify" in current.done
    return Built(
        folder=current.folder,
        ran=tuple(name for name, stage in current.done.items() if stage.ran),
        kept=tuple(name for name, stage in current.done.items() if not stage.ran),
        version=published.results["version"] if published and published.ran else None,
        rows=variant_rows(verification_of(current)) if verified else [],
        measures=measure_rows(verification_of(current)) if verified else [],
        report=report,
        results={name: stage.results for name, stage in current.done.items()},
    )


def _advance(current: Build, stage: Stage) -> None:
    """Takes a stage's former results where its key is the same, else runs it."""
    folder = current.stage_folder(stage.name)
    upstream = {name: current.done[name].key for name in stage.needs(current)}
    key = stage_key(stage.name, stage.settings(current), upstream)
    former = finished(folder, key)
    if former is not None and _still_there(current, stage.name, former):
        log.info("%s: unchanged, kept", stage.name)
        current.done[stage.name] = former
        return
    log.info("%s: started", stage.name)
    current.done[stage.name] = run_stage(folder, key, lambda: stage.work(current))
    log.info("%s: done in %.1f s", stage.name, current.done[stage.name].seconds)


def _still_there(current: Build, stage: str, former: Finished) -> bool:
    """A published version may have been deleted by hand; then it is published again."""
    if stage != "publish":
        return True
    return (current.repository / current.recipe.name / str(former.results["version"])).is_dir()


def join_training(recipe: Recipe, out: Path, repository: Path) -> None:
    """What every process of torchrun but the first does: trains with it, unless that is done, and
    writes nothing. The stages that follow are the first one's alone. Raises as build does."""
    check_network(recipe)
    current = Build(recipe, out / recipe.name, repository)
    if finished(current.stage_folder("train"), _key(current, "train")) is None:
        _fitted(current)


def _key(current: Build, name: str) -> str:
    """A stage's key, before it or what it builds on has run."""
    [stage] = [stage for stage in STAGES if stage.name == name]
    upstream = {need: _key(current, need) for need in stage.needs(current)}
    return stage_key(name, stage.settings(current), upstream)


def _survey(current: Build) -> Results:
    """Looks at the data before anything is trained on it; all broken files are in data.json."""
    try:
        findings = survey(current.data, current.stage_folder("data") / SHEET_FILE)
    except BrokenFiles as error:
        _write_json(current.folder / DATA_FILE, {"broken": error.files})
        raise
    for warning in findings["warnings"]:
        log.warning("data: warning: %s", warning)
    return findings


def _fitted(current: Build) -> Fitted:
    network, processes = new_network(current), distributed.processes()
    return fine_tune(current, "train", network, current.recipe.train, processes=processes)


def _train(current: Build) -> Results:
    return network_results(current, "train", _fitted(current))


def keys_until(recipe: Recipe, until: str) -> dict[str, str]:
    """The keys that a recipe's stages have, in their order, up to and including `until`."""
    current = Build(recipe, Path(), Path())
    before = STAGES[: STAGE_NAMES.index(until) + 1]
    return {stage.name: _key(current, stage.name) for stage in before if stage.wanted(current)}


# The sections that decide what the images are, and those that decide what is learnt of them.
_DATA_SECTIONS = ("task", "binary", "data", "fold", "transform")
_TRAIN_SECTIONS = ("task", "seed", "normalization", "augment", "model", "embedding_size", "train")


def training_settings(recipe: Recipe, until: str) -> dict[str, object]:
    """Everything of a recipe that its train, distill and prune stages depend on, up to `until`."""
    later = ("distill", "prune")
    sections = {*_DATA_SECTIONS, *_TRAIN_SECTIONS}
    if until in later:
        sections.update(later[: later.index(until) + 1])
    return recipe.model_dump(mode="json", include=sections)


def _dump(build: Build, *sections: str) -> object:
    return build.recipe.model_dump(mode="json", include=set(sections))


STAGES: tuple[Stage, ...] = (
    Stage(
        "data",
        needs=lambda build: (),
        settings=lambda build: [
            _dump(build, *_DATA_SECTIONS),
            fingerprint(build.recipe),
        ],
        work=_survey,
    ),
    Stage(
        "train",
        needs=lambda build: ("data",),
        settings=lambda build: [
            _dump(build, *_TRAIN_SECTIONS),
            weights_fingerprint(build.recipe.model.pretrained),
            chosen_precision(build.recipe.train.precision),
        ],
        work=_train,
    ),
    Stage(
        "distill",
        needs=lambda build: ("train",),
        settings=lambda build: [_dump(build, "distill"), teacher_fingerprint(build)],
        work=distill_work,
        wanted=lambda build: build.recipe.distill is not None,
    ),
    Stage(
        "prune",
        needs=lambda build: (build.trained_stage,),
        settings=lambda build: [
            _dump(build, "prune"),
            # A measured target holds for these engines on this processor only.
            [engine_versions(), environment()["machine"]] if measures_latency(build) else None,
        ],
        work=prune_work,
        wanted=lambda build: build.recipe.prune is not None,
    ),
    Stage(
        "quantize",
        needs=lambda build: tuple({build.trained_stage, build.network_stage}),
        # Mixed precision heeds the gate.
        settings=lambda build: [
            _dump(build, "quantize", "export"),
            build.recipe.verify.model_dump(include={"max_drop", "min_agreement", "min_accuracy"}),
        ],
        work=quantize_work,
        wanted=lambda build: build.recipe.quantize is not None,
    ),
    Stage(
        "export",
        needs=lambda build: (
            (build.network_stage,) if build.recipe.quantize is None else ("quantize",)
        ),
        settings=lambda build: _dump(build, "export"),
        work=export_work,
    ),
    Stage(
        "verify",
        needs=lambda build: (build.trained_stage, "export"),
        # Evidence holds for these engines on this processor only.
        settings=lambda build: [
            _dump(build, "verify"),
            engine_versions(),
            environment()["machine"],
        ],
        work=verify_work,
    ),
    Stage(
        "publish",
        needs=lambda build: ("verify",),
        settings=lambda build: [_dump(build, "name", "publish"), str(build.repository.resolve())],
        work=publish_work,
    ),
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def _write_inputs(current: Build) -> None:
    document = current.recipe.model_dump(mode="json")
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (current.folder / "recipe.yaml").write_text(text, encoding="utf-8")
    _write_json(current.folder / "environment.json", environment())


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_outputs(current: Build, searched: Searched | None) -> Path:
    """data.json, metrics.json and report.html from what is done so far."""
    metrics = {
        name: {"seconds": stage.seconds, **stage.results}
        for name, stage in current.done.items()
        if name != "data"
    }
    findings = current.done["data"].results
    _write_json(current.folder / DATA_FILE, findings)
    _write_json(current.folder / "metrics.json", metrics)
    report = current.folder / "report.html"
    write_report(
        report,
        recipe=current.recipe,
        environment=environment(),
        findings=findings,
        sheet=current.stage_folder("data") / SHEET_FILE,
        histories={
            name: stage.results["history"]
            for name, stage in current.done.items()
            if "history" in stage.results
        },
        sensitivities={
            name: stage.results["sensitivity"]
            for name, stage in current.done.items()
            if stage.results.get("sensitivity")
        },
        searched=searched,
        notes=[
            f"{name}, {variant}: {said}"
            for name, stage in current.done.items()
            for variant, said in stage.results.get("notes", {}).items()
        ],
        seconds={name: stage.seconds for name, stage in current.done.items()},
        verification=verification_of(current) if "verify" in current.done else None,
        evaluated=current.done["verify"].results if "verify" in current.done else {},
        pictures=current.stage_folder("verify") / PICTURES_FILE,
    )
    return report

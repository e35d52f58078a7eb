"""The fastest network that is accurate enough, or the most accurate that is fast enough: over
depth, image size, pruning ratio and precision, by measured latency."""

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import optuna

from serving.base.machine.cpu import core_count, machine
from serving.engines import ENGINES, EngineOptions, load_engine
from serving.engines.measure import measure_latency
from training.compress.prune import check_prune
from training.errors import BuildError, Diverged, RecipeError
from training.evaluation.accuracy import accuracy_of
from training.evaluation.network_answers import Answers
from training.evaluation.searched import Point, Searched, Tried
from training.evaluation.validation_trial import Trial
from training.fitting.stage_folder import copy_stage
from training.models.checkpoint import RUN_FORMAT
from training.models.export.deployed import input_specs
from training.models.export.variants import SCHEMES, onnx_file, precision_of
from training.models.networks import check_network
from training.pipeline.bound import Bound
from training.pipeline.environment import measuring_facts
from training.pipeline.pipeline import Built, build
from training.pipeline.run_folder import refuse_own_weights
from training.pipeline.stages.data import new_build
from training.recipes import Recipe
from training.recipes.compress import Search
from training.recipes.data import Transform
from training.recipes.deliver import TensorRt
from training.recipes.model import ModelChoice

log = logging.getLogger(__name__)

SEARCH_FOLDER = "search"
STUDY_FILE = "study.db"

_RATIO_STEP = 0.05
# The attribute of a trial that holds why it failed.
_REASON = "reason"
# The attribute of a study that holds the accuracy from which drops count.
_REFERENCE = "reference"
# The stages that all trials of one network share.
_TRAINING_STAGES = ("data", "train", "distill")


def search(
    recipe: Recipe, bound: Bound, out: Path, repository: Path, *, hours: float | None = None
) -> Built:
    """Tries networks until recipe.search.trials are measured or so many hours have passed, then
    builds and publishes the one that the bound chooses. A trial that has begun is finished. Trials
    stay in OUT/NAME/search; those of an interrupted search count.

    Raises RecipeError, TargetNotReached, and as build does.
    """
    refuse_own_weights(recipe, out / recipe.name)
    settings = recipe.search or Search(max_ratio=0.7 if recipe.prune is not None else 0.0)
    laboratory = Laboratory(recipe, settings, out / recipe.name / SEARCH_FOLDER)
    tried = laboratory.run(hours)
    chosen = bound.choose(tried).point
    log.info("search: %s: %s", bound, chosen)
    for stage in _TRAINING_STAGES:
        trained = laboratory.stage_folder(chosen, stage)
        if trained.is_dir():
            copy_stage(trained, out / recipe.name / stage)
    return build(
        _with_plans(_recipe_of(recipe, chosen), recipe.export.tensorrt),
        out,
        repository,
        searched=Searched(
            tried=tuple(tried),
            chosen=chosen,
            bound=str(bound),
            measured=f"{settings.engine}, batch {settings.batch_size}, {machine()}",
            reference=laboratory.reference,
        ),
    )


class Laboratory:
    """Builds networks as far as their files and measures them. A network is trained once; its
    last pruned form replaces the one before.

    reference: accuracy of the recipe's own network, from which drops count, once it is measured.
    """

    def __init__(self, recipe: Recipe, settings: Search, folder: Path) -> None:
        self.reference: float | None = None
        self._recipe = recipe
        self._settings = settings
        self._folder = folder
        self._networks = tuple(dict.fromkeys((recipe.model.architecture, *settings.networks)))
        sides = [(size, size) if isinstance(size, int) else size for size in settings.sizes]
        self._sizes = {
            f"{height}x{width}": (height, width)
            for height, width in (recipe.transform.size, *sides)
        }
        for network, size in itertools.product(self._networks, self._sizes.values()):
            most = Point(network=network, size=size, ratio=settings.max_ratio, variant="fp32")
            check_network(_recipe_of(recipe, most))
            check_prune(_recipe_of(recipe, most))
        precisions = ENGINES[settings.engine].precisions
        self._variants = [
            variant for variant in recipe.export.variants if precision_of(variant) in precisions
        ]
        if not self._variants:
            raise RecipeError(f"search.engine: {settings.engine} runs no variant of the recipe")

    def run(self, hours: float | None = None) -> list[Tried]:
        """All points that are measured in the end, each once."""
        began = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=f"sqlite:///{self._folder / STUDY_FILE}",
            study_name=self._study_name(),
            directions=["minimize", "minimize"],
            sampler=optuna.samplers.TPESampler(seed=self._recipe.seed),
            load_if_exists=True,
        )
        if not study.trials:
            # The corners first: each network as it is, in the last and the simplest variant.
            ends = dict.fromkeys((self._variants[-1], self._variants[0]))
            whole = {"ratio": 0.0} if self._settings.max_ratio > 0 else {}
            for variant, size, network in itertools.product(ends, self._sizes, self._networks):
                corner = {"network": network, "size": size, "variant": variant}
                study.enqueue_trial({**corner, **whole})
        known = {
            self._point(trial.params): (trial.values[0], trial.values[1])
            for trial in _complete(study)
        }

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            point = self._suggested(trial)
            if point not in known:
                try:
                    drop, milliseconds = known[point] = self._measure(point)
                except Diverged as error:
                    log.warning("search: %s: failed: %s", point, error)
                    trial.set_user_attr(_REASON, str(error))
                    raise
                shown = point, milliseconds, 100 * drop
                log.info("search: %s: %.3f ms, drop %.2f points", *shown)
            return known[point]

        left = self._settings.trials - len(_complete(study)) - len(_failed(study))
        if left > 0:
            # No drop can be measured without it, so that it may end the search.
            study.set_user_attr(
                _REFERENCE, accuracy_of(self._recipe.measure, self._reference).value
            )
            # Nothing can be chosen of no trial, so that one begins in any case.
            least = 0.0 if known else 1.0
            rest = None if hours is None else max(least, 3600 * hours - time.monotonic() + began)
            study.optimize(objective, n_trials=left, timeout=rest, catch=(Diverged,))
            over = self._settings.trials - len(_complete(study)) - len(_failed(study))
            if over > 0:
                log.info("search: %g hours have passed; %d trials were not made", hours, over)
        self.reference = study.user_attrs.get(_REFERENCE)
        if not known:
            raise BuildError(f"--search: no network was trained to its end: {_failed(study)[-1]}")
        return [
            Tried(point=point, drop=drop, milliseconds=milliseconds)
            for point, (drop, milliseconds) in known.items()
        ]

    def stage_folder(self, point: Point, stage: str) -> Path:
        """The folder of a network's stage."""
        return self._folder / point.trained / self._recipe.name / stage

    def _suggested(self, trial: optuna.Trial) -> Point:
        return self._point(
            {
                "network": trial.suggest_categorical("network", self._networks),
                "size": trial.suggest_categorical("size", tuple(self._sizes)),
                "ratio": trial.suggest_float(
                    "ratio", 0.0, self._settings.max_ratio, step=_RATIO_STEP
                )
                if self._settings.max_ratio > 0
                else 0.0,
                "variant": trial.suggest_categorical("variant", self._variants),
            }
        )

    def _point(self, values: Mapping[str, object]) -> Point:
        return Point(
            network=str(values["network"]),
            size=self._sizes[str(values["size"])],
            ratio=round(float(str(values.get("ratio", 0.0))), 2),
            variant=str(values["variant"]),
        )

    def _measure(self, point: Point) -> tuple[float, float]:
        """Drop and milliseconds."""
        recipe = _recipe_of(self._recipe, point)
        folder = self._folder / point.trained
        build(recipe, folder, self._folder, until="export")
        current = new_build(recipe, folder / recipe.name, self._folder)
        path = current.stage_folder("export") / onnx_file(point.variant)
        trial = Trial(current, self._settings.images)
        precision = precision_of(point.variant)
        found = trial.file(path, precision, self._settings.engine)
        drop = trial.compare(self._reference, found).drop
        return drop.value, self._latency(path, precision, recipe)

    @cached_property
    def _reference(self) -> Answers:
        """The answers of the recipe's own network, trained, in FP32."""
        network, size = self._recipe.model.architecture, self._recipe.transform.size
        own = Point(network=network, size=size, ratio=0.0, variant="fp32")
        recipe = _recipe_of(self._recipe, own)
        folder = self._folder / own.trained
        current = new_build(recipe, folder / recipe.name, self._folder)
        build(recipe, folder, self._folder, until=current.trained_stage, tell=True)
        return Trial(current, self._settings.images).network(current.network(current.trained_file))

    def _latency(self, path: Path, precision: str, recipe: Recipe) -> float:
        size = self._settings.batch_size
        options = EngineOptions(precision=precision, threads=core_count(), max_batch_size=size)
        engine = load_engine(self._settings.engine, path, options)
        try:
            transform = recipe.transform
            specs = input_specs(transform.size, transform.channels)
            return measure_latency(engine, specs, (size,), self._settings.seconds)[size]
        finally:
            engine.close()

    def _study_name(self) -> str:
        """Trials of another recipe, machine, runtime or version of run folders do not count."""
        document = self._recipe.model_dump(mode="json", exclude={"publish", "search"})
        settings = self._settings.model_dump(mode="json", exclude={"trials"})
        content = json.dumps([RUN_FORMAT, document, settings, measuring_facts()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _recipe_of(recipe: Recipe, point: Point) -> Recipe:
    """The recipe of one point. Weights to begin with fit the recipe's own network only."""
    own = point.network == recipe.model.architecture
    model = (
        recipe.model
        if own
        else ModelChoice(name=point.network, options=recipe.model.options, init=recipe.model.init)
    )
    prune = None
    if point.ratio > 0 and recipe.prune is not None:
        target = {"ratio": point.ratio, "macs": None, "latency": None}
        prune = recipe.prune.model_copy(update=target)
    variants = tuple(dict.fromkeys(("fp32", point.variant)))
    return recipe.model_copy(
        update={
            "model": model,
            "transform": _transform_of(recipe.transform, point.size),
            "prune": prune,
            "quantize": recipe.quantize if point.variant in SCHEMES else None,
            # A plan takes minutes: only the chosen network's is made.
            "export": recipe.export.model_copy(update={"variants": variants, "tensorrt": None}),
            "search": None,
        }
    )


def _transform_of(transform: Transform, size: tuple[int, int]) -> Transform:
    """The transform with images of another size: what a crop leaves out keeps its share."""
    if size == transform.size:
        return transform
    if transform.crop is None:
        return transform.model_copy(update={"resize": size})
    factors = [new / old for new, old in zip(size, transform.size, strict=True)]
    if isinstance(transform.resize, int):
        resize: int | tuple[int, int] = round(transform.resize * max(factors))
    else:
        height, width = transform.resize
        resize = round(height * factors[0]), round(width * factors[1])
    return transform.model_copy(update={"resize": resize, "crop": size})


def _with_plans(recipe: Recipe, wanted: TensorRt | None) -> Recipe:
    """The recipe with those of the wanted plans whose variants it exports."""
    exported = recipe.export.variants
    kept = tuple(v for v in wanted.variants if v in exported) if wanted is not None else ()
    if wanted is None or not kept:
        return recipe
    plans = wanted.model_copy(update={"variants": kept})
    export = recipe.export.model_copy(update={"tensorrt": plans})
    return recipe.model_copy(update={"export": export})


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))


def _failed(study: optuna.Study) -> list[str]:
    """The reasons of the trials that failed and would fail again."""
    return [t.user_attrs[_REASON] for t in study.trials if _REASON in t.user_attrs]

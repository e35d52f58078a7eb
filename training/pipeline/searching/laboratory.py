"""Builds the candidates of a search as far as their files, and measures them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from serving.base.machine.cpu import core_count
from serving.engines import EngineOptions, load_engine
from serving.engines.measure import measure_latency
from training.data import Dataset, load_source
from training.evaluation.accuracy import accuracy_of
from training.evaluation.network_answers import Answers
from training.evaluation.searched import Point
from training.evaluation.validation_trial import Trial, doubt_about
from training.fitting.build import Build
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Results
from training.models.export.variants import onnx_file, precision_of
from training.pipeline.pipeline import build
from training.pipeline.searching.space import Space
from training.pipeline.stages.data import new_build
from training.recipes import Recipe
from training.recipes.data import Transform
from training.recipes.train import Train

# Standard errors in a 95 % interval.
_INTERVAL = 2 * 1.96


@dataclass(frozen=True)
class Measured:
    """The measurements of a point.

    drop: accuracy below the recipe's own network in FP32, of the variant in the search's engine.
    milliseconds: of a call.
    curve: accuracy after each epoch of fine-tuning; empty for a network that is not pruned.
    error: standard error of the drop.
    in_fp32: accuracy of the fine-tuned network before rounding; None for one that is not pruned.
    """

    drop: float
    milliseconds: float
    curve: tuple[float, ...]
    error: float = 0.0
    in_fp32: float | None = None


class Laboratory:
    """A network is trained once for each size; its last pruned form replaces the one before."""

    def __init__(self, space: Space, folder: Path) -> None:
        self._space = space
        self._folder = folder
        self._loaded: tuple[Transform, Dataset] | None = None

    def build_of(self, point: Point) -> Build:
        """The build of a point, whose stages may be done or not."""
        recipe = self._space.recipe_of(point)
        return new_build(recipe, self._run(point), self._folder, self._source)

    def stage_folder(self, point: Point, stage: str) -> Path:
        """The folder of a point's stage."""
        return self._run(point) / stage

    def train(self, point: Point, on_epoch: OnEpoch | None = None) -> tuple[float, ...]:
        """Trains a point's network, unpruned, unless it is; gives the accuracy after each epoch.
        Of a training of which `on_epoch` has not been told all, it may end the rest by an
        exception. Raises as build does."""
        current = self.build_of(_whole(point))
        if current.trained_stage == "distill":
            # The student alone is there to be compared with.
            self._build(point, current.recipe, "train")
        results = self._build(point, current.recipe, current.trained_stage, on_epoch)
        return _curve(current, results[current.trained_stage])

    def measure(self, point: Point, on_epoch: OnEpoch | None = None) -> Measured:
        """Prunes a trained network, fine-tunes and exports it, and measures its variant.
        `on_epoch` is told of the fine-tuning, as in train. Raises as build does."""
        current = self.build_of(point)
        curve: tuple[float, ...] = ()
        in_fp32: float | None = None
        if current.recipe.prune is not None:
            results = self._build(point, current.recipe, "prune", on_epoch)["prune"]
            curve = _curve(current, results)
            last_step = curve[-results["last_step_epochs"] :]
            in_fp32 = kept_of(last_step, current.recipe.prune.train)
        self._build(point, current.recipe, "export")
        path = current.stage_folder("export") / onnx_file(point.variant)
        trial = Trial(current, self._space.settings.images)
        found = trial.file(path, precision_of(point.variant), self._space.settings.engine)
        drop = trial.compare(self._reference, found).drop
        error = (drop.high - drop.low) / _INTERVAL
        return Measured(drop.value, self.milliseconds(path, point), curve, error, in_fp32)

    def milliseconds(self, path: Path, point: Point) -> float:
        """Of a call of a point's file, however it was made."""
        settings, size = self._space.settings, self._space.settings.batch_size
        options = EngineOptions(
            precision=precision_of(point.variant), threads=core_count(), max_batch_size=size
        )
        engine = load_engine(settings.engine, path, options)
        try:
            inputs = self.build_of(point).inputs
            return measure_latency(engine, inputs, (size,), settings.seconds)[size]
        finally:
            engine.close()

    @property
    def reference(self) -> float:
        """Accuracy of the recipe's own network, which is trained for it."""
        return accuracy_of(self._space.recipe.measure, self._reference).value

    @property
    def doubt(self) -> str:
        """Why drops may mislead; empty where they do not."""
        current = self.build_of(self._space.own)
        return doubt_about(current, current.network(current.trained_file))

    @cached_property
    def _reference(self) -> Answers:
        """The answers of the recipe's own network, trained, in FP32."""
        self.train(self._space.own)
        current = self.build_of(self._space.own)
        trial = Trial(current, self._space.settings.images)
        return trial.network(current.network(current.trained_file))

    def _build(
        self, point: Point, recipe: Recipe, until: str, on_epoch: OnEpoch | None = None
    ) -> dict[str, Results]:
        built = build(
            recipe,
            self._folder / point.trained,
            self._folder,
            until=until,
            source=self._source,
            on_epoch=on_epoch,
            # Of all networks it is the first.
            tell=point == self._space.own,
        )
        return built.results

    def _run(self, point: Point) -> Path:
        return self._folder / point.trained / self._space.recipe.name

    def _source(self, recipe: Recipe) -> Dataset:
        """The data in the size that was asked for last: each size may take gigabytes."""
        if self._loaded is None or self._loaded[0] != recipe.transform:
            self._loaded = recipe.transform, load_source(recipe)
        return self._loaded[1]


def kept_of(curve: Sequence[float], train: Train | None) -> float:
    """The accuracy of the weights that a training kept, by the accuracy after each epoch."""
    return max(curve) if train is None or train.keep == "best" else curve[-1]


def _whole(point: Point) -> Point:
    return point.model_copy(update={"ratio": 0.0, "tilt": 0.0})


def _curve(current: Build, results: Results) -> tuple[float, ...]:
    """The accuracy after each epoch of a stage."""
    rows: Sequence[dict[str, float]] = results["history"]
    return tuple(row[f"val_{current.recipe.measure}"] for row in rows)

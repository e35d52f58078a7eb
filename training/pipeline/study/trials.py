"""One training of a study: the train stage of the recipe with some of its values replaced."""

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import Dataset, load_source
from training.errors import Diverged, RecipeError
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import copy_stage, finished
from training.fitting.train import CHECKPOINTS
from training.models.networks import check_network
from training.pipeline.pipeline import build, keys_until, training_settings
from training.pipeline.study.definition import Overrides, text_of
from training.recipes import Recipe, parse_recipe, replace
from training.recipes.tasks import MEASURE_TITLES
from training.recipes.train import Train


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    score: on the validation split, in [0, 1], of the weights that are kept.
    scores: after each epoch.
    seconds: of all epochs.
    images: numbers that trained and that validated.
    """

    score: float
    scores: tuple[float, ...]
    seconds: float
    images: tuple[int, int]

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.scores)


@dataclass
class Trials:
    """The trainings of a study on the recipe `document`, each in a folder of its own below
    `folder`. One that is finished is not repeated, one that was interrupted goes on."""

    document: Mapping[str, Any]
    folder: Path
    _networks: set[str] = field(default_factory=set)
    _source: tuple[str, Dataset] | None = None
    _told: bool = False

    @property
    def base(self) -> Recipe:
        """The recipe without changes."""
        return parse_recipe(dict(self.document))

    @property
    def measure(self) -> str:
        """The name of the validation score."""
        return MEASURE_TITLES[self.base.measure]

    def changed(self, overrides: Overrides) -> dict[str, Any]:
        """The recipe's document with values replaced, those of outer sections first."""
        document = copy.deepcopy(dict(self.document))
        for path in sorted(overrides, key=lambda path: path.count(".")):
            # A copy, since a path further inside may change it.
            replace(document, path, copy.deepcopy(overrides[path]))
        return document

    def recipe(self, overrides: Overrides, where: str) -> Recipe:
        """The recipe with values replaced. Raises RecipeError, beginning with `where` and the
        values, where it cannot be built."""
        values = ", ".join(f"{path}={text_of(value)}" for path, value in overrides.items())
        name = f"{where}: {values}" if values else where
        try:
            document = self.changed(overrides)
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error
        recipe = parse_recipe(document, name)
        network = json.dumps([recipe.task, recipe.model.model_dump(mode="json")])
        if network not in self._networks:
            try:
                check_network(recipe)
            except RecipeError as error:
                raise RecipeError(f"{name}: {error}") from error
            self._networks.add(network)
        return recipe

    def train(
        self, recipe: Recipe, name: str, on_epoch: OnEpoch | None = None, until: str = "train"
    ) -> Trained:
        """Trains in the folder `name`, which may be a path, and gives the outcome of the stage
        `until`; stages before it are taken from other trials where they are the same. An exception
        of `on_epoch` ends it. Raises RecipeError where the recipe has no such stage, Diverged with
        `name`, and as build does."""
        keys = keys_until(recipe, until)
        if until not in keys:
            raise RecipeError(f"{until}: missing, and it is what is scored")
        config = training_of(recipe, until)
        place = self.folder / name
        for stage, key in keys.items():
            if stage != until and finished(place / stage, key) is None:
                self._reuse(place / stage, key)
        recipe = recipe.model_copy(update={"name": place.name})
        # Nothing is published, so the repository does not matter.
        try:
            built = build(
                recipe, place.parent, place, until=until, source=self._load, on_epoch=on_epoch,
                tell=not self._told,
            )  # fmt: skip
        except Diverged as error:
            raise Diverged(f"{name}: {error}") from error
        self._told = self._told or until in built.ran
        self.tidy(name)
        results = built.results[until]
        scores = tuple(row[f"val_{recipe.measure}"] for row in results["history"])
        kept = scores[-results.get("last_step_epochs", len(scores)) :]
        return Trained(
            score=max(kept) if config.keep == "best" else kept[-1],
            scores=scores,
            seconds=round(sum(row["seconds"] for row in results["history"]), 2),
            images=(results["images"][0], results["images"][1]),
        )

    def tidy(self, name: str) -> None:
        """Deletes the checkpoints of a training that will not go on: a study may hold hundreds."""
        for checkpoints in list((self.folder / name).rglob(CHECKPOINTS)):
            shutil.rmtree(checkpoints, ignore_errors=True)

    def _reuse(self, stage: Path, key: str) -> None:
        """Copies a finished stage of that key from beside, if there is one."""
        for former in stage.parent.parent.glob(f"*/{stage.name}"):
            if finished(former, key) is not None:
                copy_stage(former, stage, CHECKPOINTS)
                return

    def _load(self, recipe: Recipe) -> Dataset:
        """The recipe's source; the last one is kept, for most trials share it."""
        key = recipe.model_dump_json(include={"data", "transform", "binary"})
        if self._source is None or self._source[0] != key:
            self._source = None
            self._source = (key, load_source(recipe))
        return self._source[1]


def same_training(left: Recipe, right: Recipe, until: str = "train") -> bool:
    """Whether two recipes have the same stages from train to `until`."""
    return training_settings(left, until) == training_settings(right, until)


def training_of(recipe: Recipe, stage: str) -> Train:
    """The training section of a stage. Raises RecipeError where the recipe trains nothing."""
    sections = {"distill": recipe.distill, "prune": recipe.prune}
    section = sections.get(stage)
    train = recipe.train if section is None else section.train
    if train is None:
        raise RecipeError("--study: a study compares trainings, and the recipe has train: none")
    return train

"""One training of a study: the train stage of the recipe with some of its values replaced."""

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.callbacks import OnEpoch
from training.data import Dataset, load_source
from training.errors import RecipeError
from training.metrics import MEASURE_TITLES, Measure, measure_of
from training.networks import check_network
from training.pipeline import build, train_settings
from training.recipe import Recipe, SegmentationRecipe, parse_recipe, replace
from training.study.definition import Overrides, text_of
from training.train import CHECKPOINTS


@dataclass(frozen=True)
class Trained:
    """How a training ended: the validation score, in [0, 1], of the weights that it keeps; epochs
    and seconds that it took; how many images trained and validated."""

    score: float
    epochs: int
    seconds: float
    images: tuple[int, int]


@dataclass
class Trials:
    """The trainings of a study on the recipe `document`, each in a folder of its own below
    `folder`. One that is finished is not repeated, one that was interrupted goes on."""

    document: Mapping[str, Any]
    folder: Path
    _networks: set[str] = field(default_factory=set)
    _source: tuple[str, Dataset] | None = None

    @property
    def base(self) -> Recipe:
        """The recipe without changes."""
        return parse_recipe(dict(self.document))

    @property
    def measure(self) -> str:
        """What the validation score is, in words."""
        return MEASURE_TITLES[_measure(self.base)]

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

    def train(self, recipe: Recipe, name: str, on_epoch: OnEpoch | None = None) -> Trained:
        """Trains in the folder `name`, which may be a path. What `on_epoch` raises ends it."""
        place = self.folder / name
        recipe = recipe.model_copy(update={"name": place.name})
        # Nothing is published, so the repository does not matter.
        built = build(
            recipe, place.parent, place, until="train", source=self._load, on_epoch=on_epoch
        )
        self.tidy(name)
        results = built.results["train"]
        scores = [row[f"val_{_measure(recipe)}"] for row in results["history"]]
        return Trained(
            score=max(scores) if recipe.train.keep == "best" else scores[-1],
            epochs=len(scores),
            seconds=round(sum(row["seconds"] for row in results["history"]), 2),
            images=(results["images"][0], results["images"][1]),
        )

    def tidy(self, name: str) -> None:
        """Deletes the checkpoints of a training that will not go on: a study may hold hundreds."""
        shutil.rmtree(self.folder / name / "train" / CHECKPOINTS, ignore_errors=True)

    def _load(self, recipe: Recipe) -> Dataset:
        """The recipe's source; the last one is kept, for most trials share it."""
        key = recipe.model_dump_json(include={"data", "transform", "binary"})
        if self._source is None or self._source[0] != key:
            self._source = None
            self._source = (key, load_source(recipe))
        return self._source[1]


def same_training(left: Recipe, right: Recipe) -> bool:
    """Whether two recipes have the same train stage."""
    return train_settings(left) == train_settings(right)


def _measure(recipe: Recipe) -> Measure:
    binary = isinstance(recipe, SegmentationRecipe) and recipe.binary
    return measure_of(recipe.task, binary=binary)

"""`convserve.Recipe`: the settings of a build."""

import copy
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from serving.base.files import write_whole
from training.errors import RecipeError
from training.recipes import Recipe as CheckedRecipe
from training.recipes import parse_recipe, read_document, replace


class Recipe:
    """A recipe whose every key is checked; it does not change.

    `Recipe("flowers.yaml")` reads a file, `Recipe({"name": "flowers", ...})` takes plain dicts and
    `Recipe(name="flowers", ...)` keywords. The keys are those of a recipe file. Paths in it count
    from the working folder.

    Raises RecipeError, which names the key, the value and what was expected.
    """

    def __init__(
        self, source: str | PathLike[str] | Mapping[str, Any] | None = None, /, **keys: Any
    ) -> None:
        if (source is None) == (not keys):
            raise RecipeError("recipe: expected a file, a dict or keywords")
        if source is None or isinstance(source, Mapping):
            name, given = "recipe", dict(keys if source is None else source)
        else:
            name, given = str(source), read_document(Path(source))
        self._name = name
        self._given = copy.deepcopy(given)
        self._settings = parse_recipe(copy.deepcopy(given), name)

    @property
    def settings(self) -> CheckedRecipe:
        """The sections with their types and defaults: `recipe.settings.transform.size`."""
        return self._settings

    @property
    def name(self) -> str:
        """Of the model that it builds."""
        return self._settings.name

    @property
    def task(self) -> str:
        """classification, segmentation or embedding."""
        return self._settings.task

    def document(self) -> dict[str, Any]:
        """Every key with its value, defaults included, as JSON has them."""
        return self._settings.model_dump(mode="json")

    def replace(self, values: Mapping[str, Any], /) -> "Recipe":
        """The recipe with other values: `recipe.replace({"train.epochs": 3})`. Raises
        RecipeError."""
        if not isinstance(values, Mapping):
            raise RecipeError(f"expected paths with their values, got {values!r:.40}")
        given = copy.deepcopy(self._given)
        for path, value in values.items():
            replace(given, path, copy.deepcopy(value))
        changed = Recipe(given)
        changed._name = self._name
        return changed

    def save(self, path: str | PathLike[str], /) -> Path:
        """Writes all of it as a YAML file, which `convserve build` takes. Gives its path."""
        place = Path(path)
        text = yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True)
        write_whole(place, text.encode())
        return place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._settings == other._settings

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        source = "" if self._name == "recipe" else f" of {self._name}"
        return f"<convserve.Recipe {self.name}: {self.task}{source}>"

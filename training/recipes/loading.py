"""From a YAML file and overrides to a checked recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from serving.base.problems import shown
from serving.base.text import NotText, read_utf8
from serving.base.yaml_text import BAD_YAML, load_yaml
from training.errors import RecipeError
from training.recipes.problems import INHERITING, problems
from training.recipes.recipe import Recipe
from training.recipes.timm_settings import with_timm_settings

# Characters of an override that an error repeats.
_NAMED = 200
# Characters of one problem of a recipe, which may hold keys and values of any length, and of all
# problems that an error lists.
_PROBLEM = 500
_LISTED = 1500

_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file, with overrides such as "train.epochs=3" applied, their values in YAML.

    Raises RecipeError naming the file, the key's path, the value and what was expected.
    """
    return parse_recipe(read_document(path, overrides), str(path))


def read_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe or study file with overrides applied, as plain dicts, unchecked. Raises
    RecipeError."""
    try:
        document = load_yaml(read_utf8(path))
    except NotText as error:
        raise RecipeError(str(error)) from error
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise RecipeError(
            f"{path}: a folder; expected a file (`convserve init {path}` writes a recipe of it)"
        ) from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except BAD_YAML as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: expected keys and values, got {shown(document)}")
    for override in overrides:
        _apply(document, override)
    return _with_folders(document, path.parent)


def _with_folders(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with the recipe's folder as that of the modules of its factories."""
    for path in ("model", "distill.teacher.network", "search.networks"):
        section: Any = document
        for key in path.split("."):
            section = section.get(key) if isinstance(section, dict) else None
        for network in section if isinstance(section, list) else [section]:
            if isinstance(network, dict) and network.get("factory") is not None:
                network.setdefault("folder", str(folder))
    return document


def parse_recipe(document: dict[str, Any], name: str = "recipe") -> Recipe:
    """The recipe in plain dicts, checked; `name` begins every message. Raises RecipeError."""
    document = with_timm_settings(_with_inherited_training(document))
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        raise RecipeError(f"{name}: {_listed(problems(document, error))}") from error


def document_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe in plain values, as parse_recipe takes them."""
    # A network's file has a normalisation of its own, so that its recipe must not give one.
    left_out = {"normalization"} if recipe.model.file is not None else None
    return recipe.model_dump(mode="json", exclude=left_out)


def replace(document: dict[str, Any], path: str, value: object) -> None:
    """Sets the value at a dotted path. Raises RecipeError where a part of the path has no keys."""
    keys = path.split(".")
    if not all(keys):
        raise RecipeError(f"expected KEY.KEY, got {path!r}")
    section = document
    for depth, key in enumerate(keys[:-1]):
        # An override may add a section that the file lacks or leaves empty.
        below = section.get(key)
        if below is None:
            below = section[key] = {}
        if not isinstance(below, dict):
            where = ".".join(keys[: depth + 1])
            raise RecipeError(f"{where} is {shown(below)}, it has no keys")
        section = below
    section[keys[-1]] = value


def _apply(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    named = _cut(override, _NAMED)
    if not equals or not all(path.split(".")):
        raise RecipeError(f"--set {named}: expected KEY.KEY=VALUE")
    try:
        value = load_yaml(text)
    except BAD_YAML as error:
        raise RecipeError(f"--set {named}: not valid YAML: {_one_line(error)}") from error
    try:
        replace(document, path, value)
    except RecipeError as error:
        raise RecipeError(f"--set {named}: {error}") from error


def _listed(texts: Sequence[str]) -> str:
    """The problems of a recipe, as many as fit in _LISTED characters."""
    listed = _cut(texts[0], _PROBLEM)
    for index, text in enumerate((_cut(text, _PROBLEM) for text in texts[1:]), start=1):
        if len(listed) + len(text) > _LISTED:
            return f"{listed}; and {len(texts) - index} more"
        listed += f"; {text}"
    return listed


def _with_inherited_training(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the keys that train sections of later stages lack, taken from train. An
    optimiser of another name takes none."""
    train = document.get("train")
    if not isinstance(train, dict):
        return document
    for path in INHERITING:
        document = _filled(document, path.split("."), train)
    return document


def _filled(section: dict[str, Any], path: list[str], train: dict[str, Any]) -> dict[str, Any]:
    key, *rest = path
    below = section.get(key)
    if not rest:
        own = below or {}
        return {**section, key: _merged(train, own)} if isinstance(own, dict) else section
    if not isinstance(below, dict):
        return section
    return {**section, key: _filled(below, rest, train)}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **own}
    for key, value in own.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            same_kind = value.get("name", below.get("name")) == below.get("name")
            merged[key] = {**below, **value} if same_kind else value
    return merged


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

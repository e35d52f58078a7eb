"""The keys of a recipe: type, default, limits, meaning, from the models that check it."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scripts.reference.text import Undocumented, code, join, parts, plain, sentence, table
from scripts.reference.types import default_of, limits_of, type_of
from training.recipes import ClassificationRecipe, EmbeddingRecipe, SegmentationRecipe

_INTRODUCTION = """\
# Recipe keys

A recipe is a YAML file with all settings of a build. The order of its sections is the order of
the stages. An unknown key is refused with its path and the nearest valid name, a wrong value with
the values that are expected. `convserve init` writes a first recipe; those in
[training/recipes](../../training/recipes) explain themselves.
"""
_RECIPES = (ClassificationRecipe, SegmentationRecipe, EmbeddingRecipe)


def page() -> str:
    """The page."""
    blocks = [_INTRODUCTION]
    for model, paths in sections().items():
        blocks += [_heading(model, paths), *_described(model, paths), _keys(model)]
    return join(blocks)


@cache
def sections() -> dict[type[BaseModel], list[str]]:
    """The models of all sections with the paths at which they stand, in the order of a recipe."""
    found: dict[type[BaseModel], list[str]] = {}
    for recipe in _RECIPES:
        _walk(recipe, "", found)
    return found


def meaning(model: type[BaseModel], key: str, field: FieldInfo) -> str:
    """The meaning of a key, of the docstring of its section or of a base. A key that chooses or
    holds a section is explained there. Raises Undocumented where there is none."""
    for owner in model.__mro__:
        entries = parts(owner.__doc__)[1] if owner.__doc__ else {}
        if key in entries:
            return sentence(entries[key])
    if field.description:
        return sentence(field.description)
    if _chosen_by(model) == key:
        return "Chooses this section."
    below = list(_models(field.annotation))
    if len(below) == 1:
        return sentence(parts(below[0].__doc__)[0].split("\n\n")[0])
    if below:
        return "One of these sections."
    raise Undocumented(f"recipe key {key} of {model.__name__}: its docstring lacks '{key}: ...'")


def _walk(model: type[BaseModel], path: str, found: dict[type[BaseModel], list[str]]) -> None:
    if path in found.setdefault(model, []):
        return
    found[model].append(path)
    for key, field in model.model_fields.items():
        for below in _models(field.annotation):
            _walk(below, f"{path}.{key}".lstrip("."), found)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        if argument is not annotation:
            yield from _models(argument)


def _chosen_by(model: type[BaseModel]) -> str | None:
    """The key whose only value chooses a section among several."""
    for key in ("source", "name", "task"):
        field = model.model_fields.get(key)
        if (
            field
            and get_origin(field.annotation) is Literal
            and len(get_args(field.annotation)) == 1
        ):
            return key
    return None


def _title(model: type[BaseModel], paths: list[str]) -> str:
    key = _chosen_by(model)
    chosen = f"{key}: {get_args(model.model_fields[key].annotation)[0]}" if key else ""
    path = min(paths, key=lambda one: one.count("."))
    return ", ".join(code(word) for word in (path, chosen) if word)


def _heading(model: type[BaseModel], paths: list[str]) -> str:
    level = "##" if model in _RECIPES or "." not in min(paths, key=len) else "###"
    return f"{level} {_title(model, paths)} {{ #{model.__name__.lower()} }}"


def _described(model: type[BaseModel], paths: list[str]) -> list[str]:
    prose = parts(model.__doc__)[0]
    if not prose:
        raise Undocumented(f"recipe section {model.__name__}: give it a docstring")
    first = min(paths, key=lambda one: one.count("."))
    others = [code(path) for path in paths if path != first]
    also = f"Also at {', '.join(others)}." if others else ""
    return [*(sentence(part) for part in prose.split("\n\n")), also]


def _keys(model: type[BaseModel]) -> str:
    rows = []
    for key, field in model.model_fields.items():
        limits = limits_of(field.metadata)
        kind = f"{type_of(field.annotation, _link)} {limits}".rstrip()
        rows.append([code(key), kind, default_of(field), meaning(model, key, field)])
    return table(["key", "value", "default", "meaning"], rows) if rows else "It has no keys."


def _link(model: type[BaseModel]) -> str:
    key = _chosen_by(model)
    words = get_args(model.model_fields[key].annotation)[0] if key else sections()[model][0]
    return f"[{plain(str(words))}](#{model.__name__.lower()})"

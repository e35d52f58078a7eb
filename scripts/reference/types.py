"""Types and limits of pydantic's fields in words."""

import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scripts.reference.text import code

_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
_PLURALS = {int: "integers", float: "numbers", str: "texts", Path: "paths"}


def type_of(annotation: Any, link: Callable[[type[BaseModel]], str] = lambda m: m.__name__) -> str:
    """A type in words.

    link: the words for a section.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = limits_of(arguments[1:])
        return f"{type_of(arguments[0], link)} {limits}".rstrip()
    if origin is Literal:
        return " or ".join(code(_written(value)) for value in arguments)
    if origin in (Union, types.UnionType):
        kinds = [type_of(one, link) for one in arguments if one is not types.NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return _list_of(arguments[0], link)
        return "[" + ", ".join(type_of(one, link) for one in arguments) + "]"
    if origin is list:
        return _list_of(arguments[0], link)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{type_of(arguments[0], link)}: {type_of(arguments[1], link)}, …"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return link(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(code(member.value) for member in annotation)
    return _WORDS.get(annotation) or getattr(annotation, "__name__", str(annotation))


def limits_of(metadata: Any) -> str:
    """The limits of a value in words; empty where there are none."""
    found: dict[str, Any] = {}
    for one in metadata:
        if isinstance(one, FieldInfo):
            found |= _limits(one.metadata)
        else:
            found |= _limits([one])
    words = []
    bounds = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    if "ge" in found and "le" in found:
        words.append(f"{_number(found.pop('ge'))} to {_number(found.pop('le'))}")
    words += [f"{bounds[key]} {_number(found[key])}" for key in bounds if key in found]
    if "min_length" in found:
        words.append(f"{found['min_length']} or more")
    if "max_length" in found:
        words.append(f"{found['max_length']} at most")
    if "pattern" in found:
        pattern = found["pattern"]
        words.append(f"like `{getattr(pattern, 'pattern', pattern)}`")
    return ", ".join(words)


def default_of(field: FieldInfo, *, shown: Callable[[Any], str] | None = None) -> str:
    """The default of a field as it is written; "required" where there is none.

    shown: writes the default.
    """
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return (shown or written)(value)


def written(value: Any) -> str:
    """A value as a YAML file has it, in the type of code."""
    if value is None or value is PydanticUndefined:
        return "none"
    if value == "":
        return "empty"
    if isinstance(value, BaseModel):
        return "its defaults"
    return code(_written(value))


def _list_of(annotation: Any, link: Callable[[type[BaseModel]], str]) -> str:
    kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    words = _PLURALS.get(kind) or type_of(kind, link)
    return f"list of {words} {limits_of(metadata)}".rstrip()


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(one)}" for key, one in value.items()) + "}"
    return str(value)


def _limits(metadata: Any) -> dict[str, Any]:
    keys = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
    return {
        key: value
        for one in metadata
        for key in keys
        if (value := getattr(one, key, None)) is not None
    }


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"

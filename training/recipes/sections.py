"""A recipe cut down to some of its fields: what one stage of a build may read."""

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

Section = TypeVar("Section", bound=BaseModel)


def only(section: Section, paths: Iterable[str]) -> Section:
    """A copy that holds the fields of `paths` ("train", "publish.max_batch_size") and no others:
    reading another raises AttributeError, and model_dump leaves it out. Paths of fields that the
    section does not have are passed over, since tasks differ in them."""
    inner: dict[str, list[str]] = {}
    whole: set[str] = set()
    for path in paths:
        name, _, rest = path.partition(".")
        if rest:
            inner.setdefault(name, []).append(rest)
        else:
            whole.add(name)
    copy = section.model_copy()
    for name in type(section).model_fields:
        if name in whole:
            continue
        if name in inner:
            copy.__dict__[name] = only(getattr(section, name), inner[name])
        else:
            copy.__dict__.pop(name, None)  # the section may itself be cut down
    return copy


def dump(section: BaseModel, paths: Iterable[str]) -> dict[str, Any]:
    """The values of `paths`, as JSON can hold them."""
    return only(section, paths).model_dump(mode="json")

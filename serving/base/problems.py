"""Messages on wrong documents of YAML or JSON: the path, the value and the nearest valid name."""

import difflib
import math
import reprlib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from serving.base.text import one_line


class _Brief(reprlib.Repr):
    """Looks at a few elements of a few levels: by its anchors, a document of a hundred characters
    may hold a thousand million."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 10

    def repr_str(self, value: str, _: int) -> str:
        """Its beginning."""
        return repr(value[:100])


_brief = _Brief()


def problems_by_path(document: Any, error: ValidationError, root: Any) -> dict[str, str]:
    """A text for each wrong place of a document, by its path there. `root` is the type that the
    document was checked against."""
    by_path: dict[str, str] = {}
    for problem in error.errors():
        path = _document_path(document, problem)
        by_path.setdefault(path, _explain(path, problem, root))
    return by_path


def _explain(path: str, problem: Any, root: Any) -> str:
    location = tuple(problem["loc"])
    value = problem["input"]
    message = str(problem["msg"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{_nearest(root, location)}"
        case "missing":
            return f"{path}: missing"
        case "union_tag_not_found":
            key = _join(path, str(problem["ctx"]["discriminator"]).strip("'"))
            return f"{key}: missing; expected one of {', '.join(_tags(root, location))}"
        case "union_tag_invalid":
            key = _join(path, str(problem["ctx"]["discriminator"]).strip("'"))
            tag = str(problem["ctx"]["tag"])
            near = difflib.get_close_matches(tag, _tags(root, location), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            expected = ", ".join(_tags(root, location))
            return f"{key}: expected one of {expected}; got {shown(tag)}{hint}"
        case "value_error":
            return _join(path, message.removeprefix("Value error, "), ": ")
        case _:
            expected = message[:1].lower() + message[1:]
            return f"{path}: {expected}, got {shown(value)}"


def _join(path: str, rest: str, separator: str = ".") -> str:
    return f"{path}{separator}{rest}" if path else rest


def _document_path(document: Any, problem: Any) -> str:
    """The path as written in the file: pydantic's path also names the chosen member of a union."""
    parts: list[str] = []
    here = document
    for part in problem["loc"]:
        if isinstance(here, Mapping) and part in here:
            here = here[part]
            parts.append(str(part))
        elif isinstance(here, list | tuple) and isinstance(part, int):
            here = here[part] if part < len(here) else None
            parts.append(str(part))
    if problem["type"] == "missing":
        parts.append(str(problem["loc"][-1]))
    return one_line(".".join(parts))


def _nearest(root: Any, location: tuple[int | str, ...]) -> str:
    sections = _members(_annotation_at(root, location[:-1]))
    names = [name for section in sections if _is_model(section) for name in section.model_fields]
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid here: {', '.join(names)}"


def _tags(root: Any, location: tuple[int | str, ...]) -> list[str]:
    """The values that select a member of the union at a location."""
    annotation = _annotation_at(root, location)
    return [str(tag) for member in _members(annotation) for tag in _literals(member)]


def _annotation_at(root: Any, location: tuple[int | str, ...]) -> Any:
    annotation: Any = root
    for part in location:
        annotation = _step(annotation, part)
    return annotation


def _step(annotation: Any, part: int | str) -> Any:
    members = _members(annotation)
    for member in members:
        if len(members) > 1 and str(part) in _literals(member):
            return member
    for member in members:
        if _is_model(member):
            field = member.model_fields.get(str(part))
            if field is not None:
                return field.annotation
        if get_origin(member) is Mapping:
            return get_args(member)[1]
        if get_origin(member) in (list, tuple, Sequence):
            return get_args(member)[0]
    return None


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in _members(arg) if m is not type(None)]
    return [annotation]


def _literals(member: Any) -> list[str]:
    """The fixed words of a model's fields, such as its `name`."""
    if not _is_model(member):
        return []
    return [
        str(get_args(field.annotation)[0])
        for name, field in member.model_fields.items()
        if name in ("task", "source", "name", "type") and _is_one_word(field.annotation)
    ]


def _is_model(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, BaseModel)


def _is_one_word(annotation: Any) -> bool:
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def shown(value: Any) -> str:
    """A value of a document, cut short."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    try:
        text = _brief.repr(value)
    except ValueError:  # an integer of thousands of digits, which YAML takes in hexadecimal ones
        text = f"a {type(value).__name__} that is too long"
    return text if len(text) <= 60 else text[:57] + "..."

"""What there is from Python: the public names of the package and of its client, by their
docstrings."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

import convserve
import serving.client
from scripts.reference.text import Undocumented, code, join, parts, sentence, table
from scripts.reference.types import type_of
from serving.client import images

_INTRODUCTION = """\
# Python

The public names for scripts and notebooks. `serving.client` stands alone: it needs the protos,
grpcio, protobuf, numpy and Pillow, and no other package of ours. Examples:
[Clients](../clients/index.md).
"""


def page() -> str:
    """The page."""
    blocks = [_INTRODUCTION]
    for name, thing in public().items():
        blocks += described(name, thing)
    return join(blocks)


def public() -> dict[str, Any]:
    """The public names: those of the package, then those of its client that it has not."""
    found = {
        f"convserve.{name}": getattr(convserve, name) for name in getattr(convserve, "__all__", ())
    }
    known = [thing for thing in found.values() if not isinstance(thing, str)]
    for name in sorted(serving.client.__all__):
        thing = getattr(serving.client, name)
        if not any(thing is one for one in known):
            found[name] = thing
    return found


def described(name: str, thing: Any) -> list[str]:
    """The section of a public name. Raises Undocumented for one without a docstring."""
    heading = f"## {code(name)} {{ #{_anchor(name)} }}"
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return [heading, _alias(name)]
    prose, entries = _documented(name, thing)
    if typing.is_typeddict(thing):
        return [heading, *prose, _options(name, thing)]
    blocks = [heading, _signature(name, thing), *prose, *_entries(entries)]
    if not inspect.isclass(thing):
        return blocks
    for method, function in _methods(thing):
        prose, entries = _documented(f"{name}.{method}", function)
        signature = "" if isinstance(function, property) else _signature(method, function)
        short = name.rpartition(".")[2]
        blocks += [f"### {code(f'{short}.{method}')} {{ #{_anchor(name)}-{method} }}", signature]
        blocks += [*prose, *_entries(entries)]
    return blocks


def _anchor(name: str) -> str:
    return name.lower().replace(".", "-")


def _methods(thing: Any) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for name, member in vars(thing).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


def _documented(name: str, thing: Any) -> tuple[list[str], dict[str, str]]:
    if not thing.__doc__ or thing.__doc__.startswith(f"{name}("):
        raise Undocumented(f"{name}: give it a docstring")
    prose, entries = parts(thing.__doc__)
    return [sentence(part) for part in prose.split("\n\n")], entries


def _entries(entries: dict[str, str]) -> list[str]:
    if not entries:
        return []
    return [table(["name", "meaning"], [[code(k), sentence(v)] for k, v in entries.items()])]


def _options(name: str, thing: Any) -> str:
    """The keys of a TypedDict, those of its bases too."""
    keys = thing.__annotations__
    meanings: dict[str, str] = {}
    # A TypedDict of Python 3.11 does not know its bases.
    for other in vars(serving.client).values():
        if typing.is_typeddict(other) and other.__annotations__.items() <= keys.items():
            meanings |= parts(other.__doc__)[1]
    if missing := sorted(set(keys) - set(meanings)):
        raise Undocumented(f"{name}: its docstring lacks '{missing[0]}: ...'")
    rows = [
        [code(key), type_of(kind), sentence(meanings[key])]
        for key, kind in typing.get_type_hints(thing).items()
    ]
    return table(["option", "value", "meaning"], rows)


def _alias(name: str) -> str:
    """A type that has a name of its own; the comment above it says what it is."""
    lines = inspect.getsource(images).splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
    comment = []
    while lines[at - 1].startswith("# "):
        at -= 1
        comment.insert(0, lines[at].removeprefix("# "))
    if not comment:
        raise Undocumented(f"{name}: give it a comment")
    return sentence(" ".join(comment)) + f"\n\n```python\n{lines[at + len(comment)]}\n```"


def _signature(name: str, thing: Any) -> str:
    """The call of a class or function as its source writes it, a parameter a line."""
    if dataclasses.is_dataclass(thing):
        lines = [
            f"{field.name}: {inspect.formatannotation(field.type)}"
            for field in dataclasses.fields(thing)
        ]
        return _fenced(name, lines, "")
    function = thing.__init__ if inspect.isclass(thing) else thing
    if not inspect.isfunction(function):
        return ""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    names = function.__globals__
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    pairs = zip(positional, defaults, strict=True)
    lines = [_parameter(one, value, names) for one, value in pairs if one.arg != "self"]
    if given.kwonlyargs:
        lines.append("*")
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        lines += [_parameter(one, value, names) for one, value in pairs]
    if given.kwarg:
        lines.append("**" + _parameter(given.kwarg))
    returns = "" if inspect.isclass(thing) or not node.returns else ast.unparse(node.returns)
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return _fenced(prefix + name, lines, f" -> {returns}" if returns else "")


def _fenced(name: str, lines: list[str], answer: str) -> str:
    body = "".join(f"\n    {line}," for line in lines) + ("\n" if lines else "")
    return f"```python\n{name}({body}){answer}\n```"


def _parameter(
    given: ast.arg, default: ast.expr | None = None, names: Mapping[str, Any] | None = None
) -> str:
    """One parameter; a constant of its module, in `names`, is given by its value."""
    text = given.arg + (f": {ast.unparse(given.annotation)}" if given.annotation else "")
    if default is None:
        return text
    if isinstance(default, ast.Name) and names and default.id in names:
        return f"{text} = {names[default.id]!r}"
    return f"{text} = {ast.unparse(default)}"

"""The errors of a server: class, gRPC code, HTTP status, meaning, remedy."""

from scripts.reference.text import Undocumented, code, join, parts, sentence, table
from serving.base import errors
from serving.base.errors import ServingError
from serving.server.error_status import status_of

_INTRODUCTION = """\
# Errors

A call that fails has a gRPC code or an HTTP status, and a text of at most 2,000 characters that
names the value, the limit and the way out. A line here is a class of the server; a class with an
arrow is a special case of the one above. gRPC and HTTP answer some faults by themselves,
before a call is one: [they are listed with the protocol](../protocol.md#errors).

The Python client raises `CallFailed` with `code`, `message` and, where the server named a delay,
`retry_after`. It tries RESOURCE_EXHAUSTED and UNAVAILABLE again by itself.
"""


def page() -> str:
    """The page."""
    rows = []
    sections = []
    for kind, depth in tree():
        name, status = kind.__name__, status_of(kind.__new__(kind))
        link = "↳ " * depth + f"[{code(name)}](#{name.lower()})"
        rows.append([link, code(status.code), str(status.http)])
        facts = [f"gRPC {code(status.code)}", f"HTTP {status.http}"]
        if depth:
            facts.append(f"a special case of {code(kind.__bases__[0].__name__)}")
        sections += [f"### {code(name)} {{ #{name.lower()} }}", meaning(kind)]
        sections += [f"**Remedy:** {remedy(kind)}", " · ".join(facts) + "\n{ .facts }"]
    overview = table(["error", "gRPC", "HTTP"], rows)
    return join([_INTRODUCTION, overview, "## Meaning and remedy", *sections])


def tree(root: type[ServingError] = ServingError, depth: int = 0) -> list[tuple[type, int]]:
    """The classes below a class of serving.base.errors, with their depth."""
    found = []
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            found += [(kind, depth), *tree(kind, depth + 1)]
    return found


def meaning(kind: type) -> str:
    """The first paragraph of an error's docstring. Raises Undocumented where there is none."""
    prose, _ = parts(kind.__doc__)
    if not prose:
        raise Undocumented(f"error {kind.__name__}: give it a docstring")
    return sentence(prose.split("\n\n")[0])


def remedy(kind: type) -> str:
    """The entry `remedy` of an error's docstring. Raises Undocumented where there is none."""
    _, entries = parts(kind.__doc__)
    if "remedy" not in entries:
        raise Undocumented(f"error {kind.__name__}: its docstring lacks a line 'remedy: ...'")
    return sentence(entries["remedy"])

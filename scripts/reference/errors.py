"""The errors of a server: class, gRPC code, HTTP status, meaning, remedy."""

from scripts.reference.text import Undocumented, code, join, parts, sentence, table
from serving.base import errors
from serving.base.errors import ServingError
from serving.server.error_status import status_of

_INTRODUCTION = """\
# Errors

A call that fails has a gRPC code or an HTTP status, and a text of at most 2,000 characters that
names the value, the limit and the way out. A line here is a class of the server; a class that
stands below another is a special case of it. gRPC and HTTP answer some faults by themselves,
before a call is one: [they are listed with the protocol](../protocol.md#errors).

The Python client raises `CallFailed` with `code`, `message` and, where the server named a delay,
`retry_after`. It tries RESOURCE_EXHAUSTED and UNAVAILABLE again by itself.
"""


def page() -> str:
    """The page."""
    rows = [
        [
            "↳ " * depth + code(kind.__name__),
            code(status.code) + f"<br>{status.http}",
            meaning(kind),
            remedy(kind),
        ]
        for kind, depth in tree()
        for status in [status_of(kind.__new__(kind))]
    ]
    return join([_INTRODUCTION, table(["error", "gRPC, HTTP", "meaning", "remedy"], rows)])


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

"""The status of each error on the wire: the only such table, for gRPC and for REST."""

import re
from typing import NamedTuple

from serving.base import errors


class WireStatus(NamedTuple):
    """Name of the gRPC status code, and the HTTP status."""

    code: str
    http: int


# Characters of an error's text. gRPC sends it among the trailers, which clients refuse past 8 KB.
_LONGEST_MESSAGE = 2000

_LONG_QUOTE = re.compile(r"""((['"])[^'"]{200})[^'"]+(?=\2)""")

_INTERNAL = WireStatus("INTERNAL", 500)

STATUSES: dict[type[errors.ServingError], WireStatus] = {
    errors.InvalidInput: WireStatus("INVALID_ARGUMENT", 400),
    # The HTTP status alone tells these from other bad input.
    errors.RequestTooLarge: WireStatus("INVALID_ARGUMENT", 413),
    errors.RequestTooSlow: WireStatus("INVALID_ARGUMENT", 408),
    errors.Unauthenticated: WireStatus("UNAUTHENTICATED", 401),
    errors.ModelNotFound: WireStatus("NOT_FOUND", 404),
    errors.ModelNotReady: WireStatus("UNAVAILABLE", 503),
    errors.WrongTask: WireStatus("FAILED_PRECONDITION", 400),
    errors.NotOffered: WireStatus("UNIMPLEMENTED", 501),
    errors.NotAllowed: WireStatus("PERMISSION_DENIED", 403),
    errors.QueueFull: WireStatus("RESOURCE_EXHAUSTED", 429),
    errors.Shed: WireStatus("RESOURCE_EXHAUSTED", 429),
    errors.DeadlineExpired: WireStatus("DEADLINE_EXCEEDED", 504),
    errors.EngineError: _INTERNAL,
    # Asked to load a folder that is broken: trying again changes nothing.
    errors.ModelLoadError: WireStatus("INVALID_ARGUMENT", 400),
}


def status_of(error: errors.ServingError) -> WireStatus:
    """The status of an error: its own class's, or that of the nearest class above it."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return _INTERNAL


def retry_after(error: errors.ServingError) -> float | None:
    """Seconds after which to try again, for errors that know it."""
    if isinstance(error, errors.QueueFull | errors.Shed | errors.EngineRestarts):
        return error.retry_after
    return None


def message_of(error: errors.ServingError) -> str:
    """The text that a caller gets: values between quotes cut at 200 characters, all of it at 2,000.
    A text that repeats a caller's value whole is cut here, wherever it was written."""
    text = _LONG_QUOTE.sub(r"\1...", str(error))
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 3] + "..."

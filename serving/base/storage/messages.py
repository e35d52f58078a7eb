"""Errors of stores in words, without the credentials that they may repeat."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from serving.base.storage.address import is_url

_SHOWN_ERROR = 200
# Of a refusal for another reason than the credentials: a clock that is wrong.
_SKEWED = re.compile(r"\btime\b|\bclock\b", re.IGNORECASE)
# What follows a URL's ?: stores answer with the address of a copy, whose signature lets anybody in.
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_SECRET_NAMES = re.compile(
    r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS|AUTH|HEADERS|COOKIE", re.IGNORECASE
)
# Characters of a secret; shorter ones would hide words.
_SHORTEST = 6


class StorageError(Exception):
    """Bytes that cannot be had; the text names their address and the reason, and no secret."""


class Words(NamedTuple):
    """How errors are told to those who set a store up.

    error: the class that is raised.
    anonymous: how one asks without credentials.
    waited: the setting of the time-out.
    extras: of this package, those that bring the packages of stores.
    """

    error: type[Exception]
    anonymous: str
    waited: str
    extras: str


def told(words: Words, address: str, error: Exception, place: str = "") -> Exception:
    """The error in words."""
    if isinstance(error, StorageError):
        return words.error(str(error))
    where = f"{address}: " + (f"{place}: " if place else "")
    return words.error(where + _reason(words, address, error))


def _reason(words: Words, address: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if isinstance(error, PermissionError):
        if not is_url(address):
            return "may not be read or written"
        told = f" ({in_one_line(error)})" if _SKEWED.search(str(error)) else ""
        return (
            f"access is refused{told}; credentials come from the environment, and public data need "
            f"{words.anonymous}"
        )
    if isinstance(error, TimeoutError) or type(error).__name__ == "FSTimeoutError":
        return f"no answer in {words.waited}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return in_one_line(error)


def sends_whole_files(address: str) -> StorageError:
    """Of a server that knows no ranges."""
    return StorageError(
        f"{_QUERY.sub('?***', address)}: its server sends whole files instead of the range asked "
        "for; expected one that answers range requests"
    )


def in_one_line(error: Exception) -> str:
    """An error of another package without the credentials that it may repeat."""
    text = " ".join(f"{type(error).__name__} {error}".split())
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = _QUERY.sub("?***", text)
    return text if len(text) <= _SHOWN_ERROR else text[: _SHOWN_ERROR - 3] + "..."


def _secrets() -> Iterator[str]:
    """The secrets of the environment: in variables with the names of such, and in fsspec's."""
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name):
            yield from _words(value)
        elif name.startswith("FSSPEC_"):
            with contextlib.suppress(ValueError, RecursionError):
                yield from _in_json(json.loads(value))


def _in_json(value: object, *, secret: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _in_json(below, secret=secret or bool(_SECRET_NAMES.search(name)))
    elif isinstance(value, list):
        for below in value:
            yield from _in_json(below, secret=secret)
    elif isinstance(value, str) and secret:
        yield from _words(value)


def _words(value: str) -> Iterator[str]:
    """A secret, and its words: "Bearer" stands before some."""
    yield from (text for text in (value, *value.split()) if len(text) >= _SHORTEST)

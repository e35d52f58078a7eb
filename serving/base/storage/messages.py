"""Errors of stores in words, without the credentials that they may repeat."""

import os
import re
from typing import NamedTuple

from serving.base.storage.address import is_url

_SHOWN_ERROR = 200
# What follows a URL's ?: stores answer with the address of a copy, whose signature lets anybody in.
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS", re.I)


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
        return (
            "access is refused; credentials come from the environment, and public data need "
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
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    text = _QUERY.sub("?***", text)
    return text if len(text) <= _SHOWN_ERROR else text[: _SHOWN_ERROR - 3] + "..."

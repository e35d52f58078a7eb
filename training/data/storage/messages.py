"""Errors of stores in words, without the credentials that they may repeat."""

import os
import re

from training.errors import DataError
from training.recipes.remote.storage import is_url

_SHOWN_ERROR = 200
# What follows a URL's ?: stores answer with the address of a copy, whose signature lets anybody in.
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS", re.I)


def told(address: str, error: Exception, place: str = "") -> DataError:
    """The error in words."""
    where = f"{address}: " + (f"{place}: " if place else "")
    if isinstance(error, DataError):
        return error
    if isinstance(error, FileNotFoundError):
        return DataError(f"{where}is not there")
    if isinstance(error, PermissionError):
        if not is_url(address):
            return DataError(f"{where}may not be read or written")
        return DataError(
            f"{where}access is refused; credentials come from the environment, and public data "
            "need storage.anon: true"
        )
    if isinstance(error, TimeoutError) or type(error).__name__ == "FSTimeoutError":
        return DataError(f"{where}no answer in storage.timeout_seconds")
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{where}{error.strerror}")
    return DataError(f"{where}{in_one_line(error)}")


def sends_whole_files(address: str) -> DataError:
    """Of a server that knows no ranges."""
    return DataError(
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

"""Addresses: local paths and URLs. Secrets are the environment's, never an address's."""

import re
from urllib.parse import parse_qsl

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# A URL with a slip in it, which no message may repeat either.
_NEARLY = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/|.*://", re.DOTALL)
# Parts of the names of a URL's parameters that grant access: signed URLs of S3, GCS and Azure.
_SIGNED = ("sig", "token", "key", "secret", "password", "credential")
_FROM_ENVIRONMENT = (
    "credentials come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, "
    "AZURE_STORAGE_CONNECTION_STRING, ...)"
)


def is_url(address: str) -> bool:
    """Whether an address has a scheme, as s3://bucket has."""
    return SCHEME.match(address) is not None


def without_secrets(address: str) -> str:
    """The address. Raises ValueError, which does not repeat it, for one that is empty, is a chain
    of URLs, or holds a password or signature."""
    if not address:
        raise ValueError("expected a path or a URL, got nothing")
    if "::" in address:
        raise ValueError("chained URLs (a::b) are not read; expected a path or one URL")
    if not is_url(address):
        if _NEARLY.match(address):
            raise ValueError("expected a path or a URL such as s3://bucket/models")
        return address
    place, _, query = address.partition("://")[2].partition("?")
    if "@" in place.partition("/")[0]:
        raise ValueError(f"the URL holds a user or password; {_FROM_ENVIRONMENT}")
    names = [name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)]
    if any(word in name for name in names for word in _SIGNED):
        raise ValueError(f"the URL is signed; {_FROM_ENVIRONMENT}")
    return address


def last_part(address: str) -> str:
    """The name of a file or folder."""
    return address.rstrip("/").rpartition("/")[2]


def joined(address: str, name: str) -> str:
    """The address of an entry in a folder."""
    return f"{address.rstrip('/')}/{name}"

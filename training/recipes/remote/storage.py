"""Addresses of data: local paths and URLs, and the stores behind the latter.

Secrets are the environment's. A recipe is copied into the run folder and shown in reports, so that
one that holds a secret is refused, and the message does not repeat it.
"""

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field

from training.recipes.fields import PositiveInt, Strict

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Parts of the names of a URL's parameters that grant access: signed URLs of S3, GCS and Azure.
_SIGNED = ("sig", "token", "key", "secret", "password", "credential")
_FROM_ENVIRONMENT = (
    "credentials come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, "
    "AZURE_STORAGE_CONNECTION_STRING, ...), never from a recipe"
)


def is_url(address: str) -> bool:
    return _SCHEME.match(address) is not None


def _holds_no_secret(address: str) -> str:
    if not address:
        raise ValueError("expected a path or a URL, got nothing")
    if "::" in address:
        raise ValueError("chained URLs (a::b) are not read; expected a path or one URL")
    if not is_url(address):
        return address
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError(f"the URL holds a user or password; {_FROM_ENVIRONMENT}")
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if any(word in name for name in names for word in _SIGNED):
        raise ValueError(f"the URL is signed; {_FROM_ENVIRONMENT}")
    return address


Address = Annotated[str, AfterValidator(_holds_no_secret)]
Url = Annotated[str, Field(pattern=_SCHEME), AfterValidator(_holds_no_secret)]


class Storage(Strict):
    """How a store behind a URL is reached; credentials come from the environment.

    endpoint_url: address of an S3- or GCS-compatible store.
    region: of S3.
    account_name: of Azure.
    anon: asks without credentials, for public data.
    timeout_seconds: longest wait for one answer, of at most 8 MiB. Larger bears a slower store,
        smaller notices a dead one sooner.
    attempts: requests in a row that may fail before a build ends. A store that hangs ends it after
        so many times `timeout_seconds`; the log tells of it after 20 s.
    """

    endpoint_url: Url | None = None
    region: str | None = None
    account_name: str | None = None
    anon: bool = False
    timeout_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    attempts: PositiveInt = 6

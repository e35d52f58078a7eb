"""Where repositories may lie: folders and URLs, as settings and options give them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from serving.base.storage.address import is_url, without_secrets

_OF_FILES = ("file://", "local://")


def checked_address(text: str) -> str:
    """A repository as it is used: a path, or a URL without a slash at its end. Raises ValueError,
    which does not repeat it."""
    address = without_secrets(text)
    for scheme in _OF_FILES:
        if address.lower().startswith(scheme):
            return address[len(scheme) :]
    if not is_url(address):
        return address
    if not address.isprintable() or {"?", "#"} & set(address):
        raise ValueError("expected a URL of printable characters without a query")
    scheme, _, path = address.partition("://")
    if not path.strip("/"):
        raise ValueError("expected a URL with a place in it, such as s3://bucket/models")
    return f"{scheme.lower()}://{path.rstrip('/')}"


def _several(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(value)] if isinstance(value, Path) else value


def _checked(addresses: tuple[str, ...]) -> tuple[str, ...]:
    checked = tuple(map(checked_address, addresses))
    if not checked:
        raise ValueError("expected a folder or a URL")
    if len({*checked}) < len(checked):
        raise ValueError("expected each repository once")
    return checked


# A text holds one, or several with commas between.
Addresses = Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(_checked)]

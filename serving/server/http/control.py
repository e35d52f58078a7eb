"""The JSON of calls that infer nothing: settings, shared memory, the repository."""

import base64
from typing import NamedTuple

from serving.base.errors import InvalidInput, quoted
from serving.server.http.json_text import member_object, parse_object


def decode_trace_settings(data: bytes) -> dict[str, list[str]]:
    """Trace settings as REST clients send them: text, a list of texts, or null to clear one.
    Raises InvalidInput."""
    settings = {}
    for name, value in parse_object(data, nulls=True).items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(item, dict | list) or item is None for item in values):
            raise InvalidInput(
                f"trace setting {quoted(name)}: expected text or a list of texts, "
                f"got {quoted(value)}"
            )
        settings[name] = [str(item) for item in values]
    return settings


class Registration(NamedTuple):
    """A region of shared memory to be registered: bytes [offset, offset + byte_size) of `key`."""

    key: str
    offset: int
    byte_size: int


def decode_registration(data: bytes) -> Registration:
    """The body of a register call. Raises InvalidInput."""
    document = parse_object(data)
    key, size = document.get("key"), document.get("byte_size")
    offset = document.get("offset", 0)
    if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
        raise InvalidInput(
            f"expected key as text, offset and byte_size as integers, got {quoted(document)}"
        )
    return Registration(key, offset, size)


def decode_override(data: bytes) -> dict[str, str | bytes]:
    """The parameters of a load call: files, of any size, travel in base64. Raises InvalidInput."""
    override: dict[str, str | bytes] = {}
    for name, value in member_object(parse_object(data, limit=len(data)), "parameters").items():
        if name == "unload_dependents":
            continue
        if not isinstance(value, str):
            raise InvalidInput(f"load parameter {quoted(name)}: expected text")
        try:
            override[name] = base64.b64decode(value, validate=True) if ":" in name else value
        except ValueError as error:
            raise InvalidInput(f"load parameter {quoted(name)}: not base64: {error}") from error
    return override

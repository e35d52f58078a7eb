"""The headers of a call, and the trailers that end it, by gRPC over HTTP/2."""

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from urllib.parse import quote

import grpc

from serving.base.errors import quoted
from serving.server.wire.interface import End

Header = tuple[bytes, bytes]

# Bytes of a call's headers, as RFC 9113 counts them. More than this are refused by a status; more
# than the most, or than so many fields, end the connection before they are kept.
HEADER_BYTES = 16 << 10
MOST_HEADER_BYTES = 64 << 10
MOST_FIELDS = 256
# Of each field, beside its name and value.
_FIELD_BYTES = 32
_TYPE = b"application/grpc"
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
# Bytes of a status text on the wire. Clients refuse trailers of more than 8 KB.
_MESSAGE_BYTES = 4 << 10
# What grpc-message leaves as it is: printable ASCII without the percent sign.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

BEGIN: tuple[Header, ...] = ((b":status", b"200"), (b"content-type", _TYPE))
OK: tuple[Header, ...] = ((b"grpc-status", b"0"),)
_ACCEPTED: Header = (b"grpc-accept-encoding", b"identity")


def size_of(headers: Sequence[Header]) -> int:
    """Bytes of headers as RFC 9113 counts them."""
    return sum(map(len, chain.from_iterable(headers))) + _FIELD_BYTES * len(headers)


def http_refusal(fields: dict[bytes, bytes]) -> tuple[Header, ...] | None:
    """The answer to a request that is no call of gRPC; None for one that is."""
    if fields.get(b":method") != b"POST":
        return ((b":status", b"405"), (b"allow", b"POST"))
    kind = fields.get(b"content-type", b"")
    if kind != _TYPE and not kind.startswith((_TYPE + b"+", _TYPE + b";")):
        return ((b":status", b"415"),)
    return None


def check_encoding(fields: dict[bytes, bytes]) -> None:
    """Raises End for a call whose messages may be compressed."""
    encoding = fields.get(b"grpc-encoding")
    if encoding is not None and encoding != b"identity":
        raise End(
            grpc.StatusCode.UNIMPLEMENTED,
            f"grpc-encoding: expected identity, got {quoted(encoding.decode('latin-1'))}",
        )


def timeout_of(fields: dict[bytes, bytes]) -> float:
    """Seconds until the caller gives up; inf where he does not say. Raises End for what is no
    time."""
    value = fields.get(b"grpc-timeout")
    if value is None:
        return math.inf
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise End(
            grpc.StatusCode.INVALID_ARGUMENT,
            "grpc-timeout: expected up to 8 digits and a unit of HMSmun, got "
            f"{quoted(value.decode('latin-1'))}",
        )
    return int(found[1]) * _UNITS[found[2]]


def metadata_of(headers: Iterable[Header], key: str) -> Sequence[str]:
    """The values under a key; bytes, of keys that end in -bin, as latin-1. Those that are no base64
    are left out."""
    name = key.encode()
    found = [value for field, value in headers if field == name]
    if not found or not name.endswith(b"-bin"):
        return [value.decode("latin-1") for value in found]
    values = []
    for part in chain.from_iterable(value.split(b",") for value in found):
        text = part.strip()
        with suppress(binascii.Error):
            values.append(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True))
    return [value.decode("latin-1") for value in values]


def trailers_of(end: End) -> tuple[Header, ...]:
    """The trailers that end a call."""
    found = [(b"grpc-status", b"%d" % end.code.value[0])]
    if end.message:
        found.append((b"grpc-message", _encoded(end.message)))
    if end.details:
        found.append((b"grpc-status-details-bin", base64.b64encode(end.details).rstrip(b"=")))
    if end.code is grpc.StatusCode.UNIMPLEMENTED:
        found.append(_ACCEPTED)
    return tuple(found)


def _encoded(text: str) -> bytes:
    """A status text in percent encoding, cut where it is long."""
    while len(found := quote(text, safe=_PLAIN, errors="replace")) > _MESSAGE_BYTES:
        text = text[: len(text) // 2] + "..."
    return found.encode()

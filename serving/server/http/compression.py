"""Compressed bodies, and which compression of an answer a caller accepts (RFC 9110, 8.4, 12.5.3).

Bodies are decompressed here: aiohttp takes a gzip stream that breaks off for a whole one.
"""

import zlib
from collections.abc import Sequence

from aiohttp.web import ContentCoding

from serving.base.errors import InvalidInput, RequestTooLarge

# The better one first, for callers that accept both alike.
_CODINGS = {"deflate": ContentCoding.deflate, "gzip": ContentCoding.gzip}

# zlib's wbits of each coding: with gzip's head, with zlib's, without either, as some send deflate.
_GZIP, _ZLIB, _BARE = 31, 15, -15
# Streams that make up one body. Each costs a copy of the rest, so that a body of millions of empty
# ones would take minutes; senders write one.
_MOST_STREAMS = 16


def decompressed(body: bytes, coding: str, limit: int) -> bytes:
    """The body that was sent with this Content-Encoding header, as it came where that names another
    coding than gzip and deflate: then parsing it fails.

    Raises InvalidInput for a stream that is damaged or breaks off, RequestTooLarge for more than
    `limit` bytes.
    """
    name = coding.strip().lower()
    if not body or name not in ("gzip", "x-gzip", "deflate"):
        return body
    kind = _GZIP
    if name == "deflate":
        kind = _ZLIB if body[0] & 0xF == zlib.DEFLATED else _BARE
    whole = bytearray()
    left = body
    for _ in range(_MOST_STREAMS):  # several gzip streams, one behind the other, are one body
        stream = zlib.decompressobj(kind)
        try:
            whole += stream.decompress(left, limit - len(whole) + 1)
        except zlib.error as error:
            raise InvalidInput(f"body is no {name} stream: {error}") from error
        if len(whole) > limit:
            raise RequestTooLarge(f"body: more than {limit} bytes when decompressed")
        if not stream.eof:
            raise InvalidInput(f"body breaks off in the middle of its {name} stream")
        left = stream.unused_data
        if not left:
            return bytes(whole)
    raise InvalidInput(f"body: expected at most {_MOST_STREAMS} {name} streams in a row")


def accepted_coding(headers: Sequence[str]) -> ContentCoding | None:
    """The coding that the Accept-Encoding headers of a request like best; None where that is the
    answer as it is. What "*" stands for is only taken where the answer as it is is refused."""
    weights: dict[str, float] = {}
    for item in ",".join(headers).lower().split(","):
        name, _, parameters = item.partition(";")
        weights[name.strip()] = _weight(parameters)
    others = weights.get("*", 0.0)
    name = max(_CODINGS, key=lambda coding: weights.get(coding, 0.0))
    if weights.get(name, 0.0) > 0.0:
        return _CODINGS[name] if weights[name] >= weights.get("identity", 0.0) else None
    refused = weights.get("identity", others if "*" in weights else 1.0) == 0.0
    spare = next((c for c in _CODINGS if weights.get(c, others) > 0.0), None)
    return _CODINGS[spare] if refused and spare is not None else None


def _weight(parameters: str) -> float:
    """The q of a coding: 1 where none is given, 0 where it cannot be read."""
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0

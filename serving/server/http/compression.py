"""Compressed bodies, and which compression of an answer a caller accepts (RFC 9110, 8.4, 12.5.3).

Bodies are decompressed here: aiohttp takes a gzip stream that breaks off for a whole one.
"""

import zlib
from collections.abc import Iterator, Sequence

from aiohttp.web import ContentCoding

from serving.base.errors import InvalidInput, RequestTooLarge

# The better one first, for callers that accept both alike.
_CODINGS = {"deflate": ContentCoding.deflate, "gzip": ContentCoding.gzip}

# zlib's wbits of each coding: with gzip's head, with zlib's, without either, as some send deflate.
_GZIP, _ZLIB, _BARE = 31, 15, -15
# Streams that make up one body. Each costs a copy of the rest, so that a body of millions of empty
# ones would take minutes; senders write one.
_MOST_STREAMS = 16
# Bytes that one byte may become, beyond the first _ANY_RATIO bytes of a body. Deflate reaches 1030;
# tensors and JSON of images stay below 20. Higher lets callers cause more work by less sending.
_MOST_RATIO = 200
_ANY_RATIO = 1 << 20
# Bytes inflated at a time: 0.4 ms on a 2.5 GHz core. More hold up the event loop for longer, less
# cost more turns of it.
_PIECE = 128 << 10
# Compressed bytes given to zlib at a time; it copies what a piece leaves of them.
_SLICE = 16 << 10


class Inflater:
    """Inflates a body piece by piece, by gzip or deflate."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream: zlib._Decompress | None = None
        self._streams = 0
        self._received = 0
        self._size = 0

    @classmethod
    def of(cls, coding: str) -> "Inflater | None":
        """That of a Content-Encoding header; None where it names another coding than gzip and
        deflate: the body is left as it came then, and parsing it fails."""
        name = coding.strip().lower()
        return cls(name) if name in ("gzip", "x-gzip", "deflate") else None

    def inflate(self, data: bytes) -> Iterator[bytes]:
        """The next pieces of the body, each of up to 128 KiB and made when it is asked for.

        Raises InvalidInput for a stream that is damaged or that grows too much.
        """
        for start in range(0, len(data), _SLICE):
            part = data[start : start + _SLICE]
            self._received += len(part)
            while True:
                stream = self._stream or self._next(part)
                try:
                    piece = stream.decompress(part, _PIECE)
                except zlib.error as error:
                    raise InvalidInput(f"body is no {self._name} stream: {error}") from error
                self._size += len(piece)
                if self._size > _ANY_RATIO + _MOST_RATIO * self._received:
                    raise RequestTooLarge(
                        f"body: {self._received} bytes become more than {self._size}; expected at "
                        f"most {_MOST_RATIO} for each beyond the first {_ANY_RATIO}"
                    )
                if piece:
                    yield piece
                if stream.eof:
                    part, self._stream = stream.unused_data, None
                    if not part:
                        break
                    continue
                part = stream.unconsumed_tail
                # A whole piece may have left more inside zlib, although it took all of the part.
                if not part and len(piece) < _PIECE:
                    break

    def _next(self, start: bytes) -> "zlib._Decompress":
        """Begins a stream: several of them, one behind the other, are one body."""
        self._streams += 1
        if self._streams > _MOST_STREAMS:
            raise InvalidInput(f"body: expected at most {_MOST_STREAMS} {self._name} streams")
        kind = _GZIP
        if self._name == "deflate":
            kind = _ZLIB if start[0] & 0xF == zlib.DEFLATED else _BARE
        self._stream = zlib.decompressobj(kind)
        return self._stream

    def close(self) -> None:
        """The body is over. Raises InvalidInput where its stream is not."""
        if self._stream is not None:
            raise InvalidInput(f"body breaks off in the middle of its {self._name} stream")


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

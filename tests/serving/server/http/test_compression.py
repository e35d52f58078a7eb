"""Bodies of each Content-Encoding, and which compression an Accept-Encoding header allows."""

import gzip
import random
import zlib

import pytest

from serving.base.errors import InvalidInput, RequestTooLarge
from serving.server.http.compression import Inflater, accepted_coding

BODY = b'{"id": "x"}' * 50
BARE = zlib.compressobj(wbits=-15)
SENT = {
    "gzip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY),
    "GZIP": gzip.compress(BODY[:7]) + gzip.compress(BODY[7:]),
    "deflate": zlib.compress(BODY),
    " Deflate": BARE.compress(BODY) + BARE.flush(),
    "identity": BODY,
    "": BODY,
    "nope": BODY,
}


def inflated(data: bytes, coding: str, step: int = 1 << 20) -> bytes:
    """What comes of a body that arrives `step` bytes at a time."""
    inflater = Inflater.of(coding)
    if inflater is None:
        return data
    pieces = []
    for start in range(0, len(data), step):
        pieces += inflater.inflate(data[start : start + step])
    inflater.close()
    assert max(map(len, pieces), default=0) <= 128 << 10
    return b"".join(pieces)


@pytest.mark.parametrize("coding", SENT)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_body_is_the_same_in_every_coding_however_it_arrives(coding: str, step: int) -> None:
    assert inflated(SENT[coding], coding, step) == BODY
    assert inflated(b"", coding) == b""


@pytest.mark.parametrize("size", [(128 << 10) - 1, 128 << 10, (128 << 10) + 1, 300 << 10])
@pytest.mark.parametrize("step", [100, 1 << 20])
def test_body_of_several_pieces_is_whole(size: int, step: int) -> None:
    assert inflated(gzip.compress(bytes(size)), "gzip", step) == bytes(size)
    noise = random.Random(1).randbytes(size)
    assert inflated(gzip.compress(noise) + gzip.compress(noise), "gzip", step) == noise * 2


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", " Deflate"])
def test_stream_that_breaks_off_is_bad_input_wherever_it_does(coding: str) -> None:
    whole = SENT[coding]
    first = len(gzip.compress(BODY[:7])) if coding == "GZIP" else 0
    for size in {1, 5, len(whole) // 2, len(whole) - 1} - {first}:
        with pytest.raises(InvalidInput, match="body "):
            inflated(whole[:size], coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_body_that_is_not_in_its_coding_is_bad_input(coding: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        inflated(b"nonsense", coding)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_streams_in_a_row_are_one_body_up_to_a_number(step: int) -> None:
    streams = gzip.compress(b"one ") * 2 + gzip.compress(b"two")
    assert inflated(streams, "gzip", step) == b"one one two"
    with pytest.raises(InvalidInput, match="expected at most 16 gzip streams"):
        inflated(gzip.compress(b"") * 17, "gzip", step)


def test_body_that_grows_too_much_is_refused_before_it_has() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    inflater = Inflater("gzip")
    pieces = []
    with pytest.raises(RequestTooLarge, match="at most 200 for each"):
        pieces += inflater.inflate(bomb)
    assert sum(map(len, pieces)) <= (1 << 20) + 200 * len(bomb)
    assert inflated(gzip.compress(bytes(1 << 20)), "gzip") == bytes(1 << 20)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "deflate"),
        ("gzip, deflate, br", "deflate"),
        ("gzip;q=1.0, deflate;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.0, deflate;q=0", None),
        ("gzip; q=0", None),
        ("gzip;q=0, deflate", "deflate"),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.8", "gzip"),
        ("*", None),
        ("*;q=0", None),
        ("identity;q=0, *", "deflate"),
        ("*;q=0, gzip", "gzip"),
        ("identity;q=0", None),
        ("br", None),
        ("gzip;q=nonsense", None),
        (";;,,=;q", None),
    ],
)
def test_answer_is_compressed_as_the_caller_likes_best(header: str, coding: str | None) -> None:
    found = accepted_coding([header])
    assert (found.value if found else None) == coding


def test_headers_add_up() -> None:
    found = accepted_coding(["identity", "gzip;q=0"])
    assert found is None

"""Bodies of each Content-Encoding, and which compression an Accept-Encoding header allows."""

import gzip
import zlib

import pytest

from serving.base.errors import InvalidInput, RequestTooLarge
from serving.server.http.compression import accepted_coding, decompressed

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


@pytest.mark.parametrize("coding", SENT)
def test_body_is_the_same_in_every_coding(coding: str) -> None:
    assert decompressed(SENT[coding], coding, len(BODY)) == BODY
    assert decompressed(b"", coding, len(BODY)) == b""


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", " Deflate"])
def test_stream_that_breaks_off_is_bad_input_wherever_it_does(coding: str) -> None:
    whole = SENT[coding]
    first = len(gzip.compress(BODY[:7])) if coding == "GZIP" else 0
    for size in {1, 5, len(whole) // 2, len(whole) - 1} - {first}:
        with pytest.raises(InvalidInput, match="body "):
            decompressed(whole[:size], coding, len(BODY))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_body_that_is_not_in_its_coding_is_bad_input(coding: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        decompressed(b"nonsense", coding, 100)
    assert len(str(refusal.value)) < 400


def test_streams_in_a_row_are_one_body_up_to_a_number() -> None:
    assert decompressed(gzip.compress(b"one ") * 2 + gzip.compress(b"two"), "gzip", 99) == (
        b"one one two"
    )
    with pytest.raises(InvalidInput, match="expected at most 16 gzip streams in a row"):
        decompressed(gzip.compress(b"") * 17, "gzip", 99)


def test_body_past_the_limit_is_too_large_however_small_it_was_sent() -> None:
    with pytest.raises(RequestTooLarge, match="more than 1000 bytes"):
        decompressed(gzip.compress(bytes(1 << 20)), "gzip", 1000)
    with pytest.raises(RequestTooLarge, match="more than 549 bytes"):
        decompressed(SENT["GZIP"], "gzip", len(BODY) - 1)


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

"""Which compression an Accept-Encoding header allows."""

import pytest

from serving.server.http.compression import accepted_coding


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

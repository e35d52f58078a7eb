"""API keys: whose they are, until when, and the file that lists them."""

import time

import pytest

from serving.server.access.followed import BadFile
from serving.server.access.keys import (
    ApiKey,
    ApiKeys,
    digest_of,
    new_key,
    parse_keys,
    parse_time,
    time_text,
    with_key,
    without_keys,
)

NOW = time.time()
SECRET = "convserve_" + "s" * 43
OTHER = new_key()


def key(client: str = "clinic", secret: str = SECRET, seconds: float = 3600) -> ApiKey:
    return ApiKey(client, digest_of(secret), float(int(NOW + seconds)))


def test_key_is_its_clients_until_it_expires() -> None:
    keys = ApiKeys([key(), key("lab", OTHER)])
    found = keys.key_of(SECRET, NOW)
    assert found is not None
    assert found.client == "clinic"
    assert keys.key_of(SECRET, NOW + 3601) is None
    for wrong in ("", SECRET[:-1], SECRET + "x", digest_of(SECRET), "\udcff", "ä" * 10):
        assert keys.key_of(wrong, NOW) is None


def test_two_digests_that_begin_alike_are_told_apart() -> None:
    digest = digest_of(SECRET)
    altered = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    assert ApiKeys([ApiKey("clinic", altered)]).key_of(SECRET, NOW) is None


def test_file_keeps_its_comments_and_drops_expired_keys_of_the_client() -> None:
    old, good = key(secret="old", seconds=-5), key(secret="good")
    text = f"# clinics\n{old.line()}\n\n{good.line()}\n{key('lab', OTHER, -5).line()}\n"
    more = with_key(text, key(), NOW)
    assert more.startswith("# clinics\n\n")
    assert [(k.client, k.digest) for k in parse_keys(more)] == [
        ("clinic", good.digest),
        ("lab", digest_of(OTHER)),
        ("clinic", digest_of(SECRET)),
    ]


def test_client_has_two_keys_and_not_three() -> None:
    text = with_key(with_key("", key(secret="a"), NOW), key(secret="b"), NOW)
    with pytest.raises(BadFile, match="has 2 keys already; revoke one of"):
        with_key(text, key(secret="c"), NOW)
    with pytest.raises(BadFile, match="at most 2 keys that have not expired, got 3"):
        parse_keys(text + key(secret="c").line())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clinic", "line 1: expected CLIENT SHA256 EXPIRES, got 1 words"),
        (f"clinic {SECRET} never", "line 1: expected a SHA-256 as 64 hexadecimal digits"),
        (f"cli/nic {digest_of('a')} never", "line 1: client: expected 1 to 64 letters"),
        (f"clinic {digest_of('a')} soon", "line 1: expected never, a day"),
    ],
)
def test_wrong_line_is_named_and_repeats_no_key(line: str, expected: str) -> None:
    with pytest.raises(BadFile) as failure:
        parse_keys(line)
    assert str(failure.value).startswith(expected)
    assert SECRET not in str(failure.value)


def test_revoking_takes_what_is_named_alone() -> None:
    first, second = key(secret="a"), key(secret="b")
    text = f"# mine\n{first.line()}\n{second.line()}\n{key('lab').line()}\n"
    left, gone = without_keys(text, first.id)
    assert gone == [first]
    assert parse_keys(left) == [second, key("lab")]
    left, gone = without_keys(left, "clinic")
    assert gone == [second]
    assert left == f"# mine\n{key('lab').line()}\n"
    with pytest.raises(BadFile, match=r"no client and no key 'clinic'; .* \['lab'\]"):
        without_keys(left, "clinic")


def test_times_come_back_as_they_were_written() -> None:
    for text in ("never", "2027-01-31T12:00:00Z", "0900-01-31T12:00:00Z"):
        assert time_text(parse_time(text)) == text
    assert time_text(parse_time("2027-01-31")) == "2027-01-31T00:00:00Z"
    assert time_text(parse_time("2027-01-31T12:00:00+02:00")) == "2027-01-31T10:00:00Z"


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-01:00", "2027-02-30", "0000-01-01", "1e9"])
def test_time_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(BadFile, match="expected never, a day"):
        parse_time(text)

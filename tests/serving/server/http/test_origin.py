"""The names by which a port may be called."""

import socket

import pytest

from serving.server.http.origin import Hosts

ALWAYS = [
    "localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:8000", "0.0.0.0", "[::1]:8000",
    "[fe80::1]", socket.gethostname(),
]  # fmt: skip
NEVER = [
    "", ":80", "evil.example", "localhost.evil.example", "xlocalhost", "localhost:80:80",
    "[::1", "::1", "[localhost]", "[::1]x", "[::1]:x", "127.0.0.1.evil.example", "127.0.0.1:123456",
    "localhost\0", "a@localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", ALWAYS)
def test_own_names_are_allowed_whatever_else_is(host: str) -> None:
    assert Hosts().allows(host)
    assert Hosts(["a.example"]).allows(host)


@pytest.mark.parametrize("host", NEVER)
def test_other_names_are_not(host: str) -> None:
    assert not Hosts(["a.example", "*.b.example", "", " "]).allows(host)


def test_names_are_added() -> None:
    hosts = Hosts([" A.example", "*.b.example", "c"])
    for host in ("a.example", "A.EXAMPLE.:8000", "x.b.example", "x.y.b.example:1", "c"):
        assert hosts.allows(host)
    for host in ("x.a.example", "b.example", "xb.example", ".b.example.evil", "c.example"):
        assert not hosts.allows(host)


@pytest.mark.parametrize("host", [*ALWAYS, *NEVER])
def test_star_allows_any(host: str) -> None:
    assert Hosts(["*"]).allows(host)

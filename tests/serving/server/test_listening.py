"""Sockets that listen: hosts of both families, and hosts that there are none of."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from serving.server.config import StartError
from serving.server.listening import listening


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="the machine has no IPv6")


@contextlib.contextmanager
def _listening(host: str, port: int = 0) -> Iterator[int]:
    sockets = listening("--some-port", host, port)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        for one in sockets:
            one.close()


@needs_ipv6
@pytest.mark.parametrize("host", ["", "::", "[::]"])
def test_any_address_is_one_of_either_family(host: str) -> None:
    with _listening(host) as port:
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()


def test_any_address_where_the_machine_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return kept(family, kind)

    kept = socket.socket
    monkeypatch.setattr(socket, "socket", made)
    with _listening("") as port:
        monkeypatch.undo()
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.parametrize("host", ["a..b", "a" * 300, "no-such-name.invalid", "127.0.0.1:80"])
def test_a_host_that_is_none_is_one_clear_line(host: str) -> None:
    with pytest.raises(StartError, match=r"^--some-port: cannot listen on ") as raised:
        listening("--some-port", host, 0)
    assert "\n" not in str(raised.value)


@needs_ipv6
def test_a_port_that_is_taken_on_one_family_alone_is_taken() -> None:
    with _listening("127.0.0.1") as port:
        for host, told in (("::", rf"\[::\]:{port}: Address"), ("", f" :{port}: Address")):
            with pytest.raises(StartError, match=told):
                listening("--some-port", host, port)

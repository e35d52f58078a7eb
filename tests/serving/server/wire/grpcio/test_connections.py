"""The connections of a port of this process, found and cut by their descriptors."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from serving.server.wire.grpcio.connections import Connections, address_of, peer_of
from serving.server.wire.interface import Peer


class Port:
    """A port of this process and the connections that were made to it, both sides."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.accepted: list[socket.socket] = []
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.number = self._listener.getsockname()[1]

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.number), 5, source_address=(source, 0))
        accepted, _ = self._listener.accept()
        self.accepted.append(accepted)
        self._stack.enter_context(made)
        self._stack.enter_context(accepted)
        return made


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


def test_only_the_youngest_connections_of_the_address_with_too_many_are_cut(port: Port) -> None:
    connections = Connections(port.number, per_address=3)
    old = [port.connect() for _ in range(3)]
    assert connections.cut_excess() == 0
    young = [port.connect() for _ in range(2)]
    others = [port.connect(f"127.0.0.{number}") for number in range(2, 6)]
    assert connections.cut_excess() == 2
    assert not any(map(is_open, young))
    assert all(map(is_open, [*old, *others]))


def test_named_peers_are_cut_and_nobody_else(port: Port) -> None:
    first, second = port.connect(), port.connect()
    assert Connections(port.number, 1).cut({first.getsockname()}) == 1
    assert not is_open(first)
    assert is_open(second)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:127.0.0.1:80", ("127.0.0.1", 80)),
        ("ipv6:%5B::1%5D:80", ("::1", 80)),
        ("ipv6:[::ffff:10.0.0.1]:443", ("10.0.0.1", 443)),
        ("unix:/run/socket", None),
        ("unix:", None),
        ("unknown", ("", 0)),
        ("", ("", 0)),
        ("ipv4:", ("", 0)),
    ],
)
def test_peers_are_read_as_grpc_writes_them(text: str, peer: tuple[str, int] | None) -> None:
    assert peer_of(text) == peer


def test_addresses_of_one_ipv6_network_are_one_and_those_of_ipv4_are_many() -> None:
    first, second = "ipv6:%5B2001:db8::1%5D:1", "ipv6:%5B2001:db8::2%5D:1"
    assert address_of(first) == address_of(second) == "2001:db8::/64"
    assert address_of("ipv6:%5B2001:db8:0:1::1%5D:1") != address_of(first)
    assert address_of("ipv6:%5B::ffff:10.0.0.1%5D:1") == address_of("ipv4:10.0.0.1:2") == "10.0.0.1"
    assert address_of("unknown") != address_of("unix:/run/socket")


def test_connections_of_one_ipv6_network_are_counted_together(port: Port) -> None:
    ends = [port.connect() for _ in range(5)]
    seen = [*port.accepted]
    names = dict(zip(map(socket.socket.fileno, seen), NETWORKS, strict=True))

    class Named(Connections):
        """Its connections come from where a test says."""

        def _peer(self, connection: socket.socket) -> Peer | None:
            name = names.get(connection.fileno())
            return name and Peer(name, 1000 + connection.fileno())

    assert Named(port.number, per_address=2).cut_excess() == 1
    assert sum(map(is_open, ends)) == 4


# Of three connections from the first network, one is too many.
NETWORKS = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "10.0.0.1"]

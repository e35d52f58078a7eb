"""The connections of the gRPC port. gRPC opens and closes them by itself and tells nothing of them;
on Linux the process's own table of descriptors does."""

import os
import socket
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from urllib.parse import unquote

from serving.server.access.caller import plain_address, site_of
from serving.server.wire.interface import Peer

# One entry for each descriptor of this process.
_DESCRIPTORS = "/proc/self/fd"

# tcpi_bytes_received of Linux's tcp_info.
_TCP_INFO = struct.Struct("=128xQ")
# No socket has it, and no right goes with it.
_UNKNOWN = Peer("", 0)


def peer_of(text: str) -> Peer | None:
    """The peer that gRPC writes as "ipv4:127.0.0.1:80" or "ipv6:%5B::1%5D:80"; None for one on a
    Unix socket, `_UNKNOWN` for one that gRPC does not know any more."""
    kind, _, rest = unquote(text).partition(":")
    if kind == "unix":
        return None
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return _UNKNOWN
    return Peer(plain_address(address.strip("[]")), int(port))


def address_of(text: str) -> str:
    """The address, or network, of a peer as gRPC writes it; "unix" on a Unix socket."""
    peer = peer_of(text)
    return site_of(peer.address) if peer else "unix"


def _descriptors() -> list[int]:
    """The descriptors of this process; none where the system has no /proc."""
    try:
        return list(map(int, os.listdir(_DESCRIPTORS)))  # noqa: PTH208
    except OSError:
        return []


class Connections:
    """The connections that others have opened to a port of this process.

    Descriptors are used as they are and never duplicated: gRPC relies on a socket being gone once
    it has closed it. A connection that is opened within the microseconds between a look and a cut,
    with the number of one that has just closed, may be cut in its place; its caller connects again.

    port: of this side.
    per_address: connections that one address of IPv4, or /64 network of IPv6, may have.
    """

    def __init__(self, port: int, per_address: int) -> None:
        self._port = port
        self._per_address = per_address
        self._known: set[Peer] = set()

    def cut_excess(self) -> int:
        """Closes the youngest connections of each address that has more than its share, and returns
        their number. Takes 5 us a connection, and next to nothing while there are few."""
        if len(_descriptors()) <= self._per_address:
            return 0
        peers = [peer for _, peer in self._open()]
        peers.sort(key=lambda peer: peer not in self._known)
        counts, excess = Counter[str](), set[Peer]()
        for peer in peers:
            site = site_of(peer.address)
            counts[site] += 1
            if counts[site] > self._per_address:
                excess.add(peer)
        self._known = set(peers) - excess
        return self.cut(excess) if excess else 0

    def cut(self, peers: Collection[Peer]) -> int:
        """Closes the connections of these peers and returns their number."""
        count = 0
        for connection, peer in self._open():
            if peer in peers:
                with suppress(OSError):  # it has closed by itself
                    connection.shutdown(socket.SHUT_RDWR)
                    count += 1
        return count

    def received(self) -> dict[Peer, int]:
        """Bytes that have come over each connection; none where the system does not tell."""
        found = {}
        for connection, peer in self._open():
            with suppress(OSError, AttributeError, struct.error):
                state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
                found[peer] = _TCP_INFO.unpack(state)[0]
        return found

    def _open(self) -> Iterator[tuple[socket.socket, Peer]]:
        """Each connection, to be used before the next is asked for."""
        for number in _descriptors():
            try:
                connection = socket.socket(fileno=number)
            except OSError:  # no socket
                continue
            try:
                peer = self._peer(connection)
                if peer is not None:
                    yield connection, peer
            finally:
                connection.detach()

    def _peer(self, connection: socket.socket) -> Peer | None:
        """The other side; None where the socket is no connection of the port."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            if connection.getsockname()[1] != self._port:
                return None
            address, port = connection.getpeername()[:2]
        except OSError:  # it listens, or has closed
            return None
        return Peer(plain_address(address), port)

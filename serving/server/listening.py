"""Sockets that listen for callers, of gRPC as of HTTP."""

import errno
import socket
from pathlib import Path
from typing import Any

# Connections that wait to be accepted. Fewer refuse callers who come at once.
BACKLOG = 1024
_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on a port, 0 for a free one, of each address that the host stands for; it
    may stand in brackets. `::` is any address of IPv6 and of IPv4. Raises OSError where the port is
    taken, or the machine has none of the addresses."""
    found = socket.getaddrinfo(
        host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in dict.fromkeys((one[0], one[4]) for one in found):
        number = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_listening(family, (address[0], number, *address[2:])))
        except OSError as error:
            failed = error
            # A name may stand for an address of each family; one that is not there is left out.
            if error.errno not in _UNAVAILABLE:
                break
    else:
        if sockets:
            return sockets
    for one in sockets:
        one.close()
    raise failed or OSError(errno.EADDRNOTAVAIL, "no address")


def listening_at(path: Path) -> socket.socket:
    """A Unix socket that listens. Raises OSError."""
    return _listening(socket.AF_UNIX, str(path))


def _listening(family: int, address: tuple[Any, ...] | str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            # Ports of connections that have just ended are free; those that are listened on are
            # not.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            wildcard = address[0] == "::"
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not wildcard)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made

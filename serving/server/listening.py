"""Sockets that listen for callers, of gRPC as of HTTP."""

import errno
import socket
from pathlib import Path
from typing import Any

from serving.server.config import StartError

# Connections that wait to be accepted. Fewer refuse callers who come at once.
BACKLOG = 1024
_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def endpoint(host: str, port: int) -> str:
    """A host and a port in one text; an address of IPv6 is in brackets."""
    plain = host.strip("[]")
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"


def listening(option: str, host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on a port, 0 for a free one, of each address that the host stands for; it
    may stand in brackets. `::` is any address of IPv6 and of IPv4, as is an empty host. Raises
    StartError, which names the option of the port, where the port is taken, the machine has none of
    the addresses, or nothing has that name."""
    try:
        return _all_listening(host.strip("[]"), port)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        place = endpoint(host, port)
        raise StartError(f"{option}: cannot listen on {place}: {reason}") from error


def _all_listening(host: str, port: int) -> list[socket.socket]:
    found = dict.fromkeys(
        (family, address)
        for family, _, _, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in found:
        number = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_listening(family, (address[0], number, *address[2:]), len(found) == 1))
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
    return _listening(socket.AF_UNIX, str(path), alone=True)


def _listening(family: int, address: tuple[Any, ...] | str, alone: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            # Ports of connections that have just ended are free; those that are listened on are
            # not.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Any address of IPv4 may have a socket of its own.
            both = alone and address[0] == "::"
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made

"""Who calls, as the wire has it: nothing of this is proved yet."""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

# The metadata of gRPC, and the headers of REST, that carry credentials.
AUTHORIZATION = "authorization"
API_KEY = "x-api-key"

# The values of a header, or of the metadata, of some name.
GetHeader = Callable[[str], Sequence[str]]


def no_header(_: str) -> Sequence[str]:
    """The headers of who sends none."""
    return ()


class Caller(NamedTuple):
    """Who calls.

    address: None on the admin socket alone, empty where it is not known any more.
    authorization: the header, or metadata, of that name; empty where there is none.
    certificate: the names in the client certificate that the connection proved, as
        "URI:spiffe://...", "DNS:...", "IP:...", "EMAIL:..." and "SUBJECT:CN=..."; None without one.
    api_key: the header, or metadata, x-api-key; empty where there is none.
    header: reads any other header.
    came: when the head of his call came, monotonic seconds; 0 where the wire does not know it.
    """

    address: str | None
    authorization: str = ""
    certificate: tuple[str, ...] | None = None
    api_key: str = ""
    header: GetHeader = no_header
    came: float = 0.0

    def __repr__(self) -> str:
        """The address alone: the credentials must come into no log."""
        return f"Caller({self.address!r})"


# Called only where somebody wants to know.
GetCaller = Callable[[], Caller]


def on_unix_socket(connection: asyncio.BaseTransport) -> bool:
    """Whether a connection came over a Unix socket, on which admins are. The kind of its socket
    says so, never an address that is missing: uvloop has none of a caller who has sent his bytes
    and reset the connection before it was accepted."""
    found = connection.get_extra_info("socket")
    return found is not None and found.family == socket.AF_UNIX


def plain_address(address: str) -> str:
    """An IPv4 address as itself, also where a socket of IPv6 writes it."""
    return address.removeprefix("::ffff:")


# Of as many addresses as have a connection at a time; an IPv6 address takes 5 us.
@functools.lru_cache(4096)
def site_of(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 address: what one caller has of his own."""
    address = plain_address(address)
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:  # of another family, as some library may name it
        return address
    return str(ipaddress.IPv6Network((int(whole) >> 64 << 64, 64)))

"""What a gRPC wire gives to the methods that it carries.

A method is a coroutine that takes a Call: it reads messages as bytes, as they came, and writes them
as bytes. It returns the last message, or None where it has written all; it raises End to give its
call another status than OK. Any other exception is a fault of the server's: the wire logs it and
ends the call as INTERNAL. The method is cancelled when its caller goes away or the deadline passes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import grpc

from serving.server.config import ServerConfig

_MIB = 1 << 20

# Bytes from which on whoever has an answer holds them of the memory budget until it is written.
# Fewer costs small calls 2 us, more lets the answers of a stream take more unseen: 64 at most.
LARGE_ANSWER = 64 << 10

Buffer = bytes | bytearray | memoryview


class Peer(NamedTuple):
    """The other side of a connection: an address of IPv4 or IPv6, and its port. Empty and 0 where
    the wire does not know it any more."""

    address: str
    port: int


class End(Exception):
    """The end of a call with a status.

    details: a serialised google.rpc.Status, sent as grpc-status-details-bin; empty for none.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: bytes = b"") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details


class Call(Protocol):
    """One call."""

    @property
    def deadline(self) -> float:
        """When its caller gives up, seconds on the monotonic clock; inf for never."""

    @property
    def came(self) -> float:
        """When it came, of a method that takes one message, monotonic seconds; 0 of others."""

    @property
    def peer(self) -> Peer | None:
        """Who calls; None on a Unix socket."""

    @property
    def certificate(self) -> tuple[str, ...] | None:
        """The names in the caller's verified certificate, as `Caller` has them; None without."""

    def metadata(self, key: str) -> Sequence[str]:
        """The values that the caller sent under a key, in small letters. Those of keys that end in
        -bin are bytes, as text of as many characters (latin-1)."""

    @property
    def has_message(self) -> bool:
        """Whether its next message is there, as far as the wire can tell."""

    async def read(self) -> bytes | None:
        """The next message; None when the caller has sent all. Raises ServingError where it is
        refused: too large, too late, no memory."""

    async def write(self, message: Buffer) -> None:
        """Sends a message, and returns when the next may be written. The wire holds its copies."""


class Method(NamedTuple):
    """A method of a service.

    run: answers a call.
    unary: its calls take one message and give one; `Limits.receive` counts for these.
    most: bytes of a message, where it takes fewer than `Limits.message`. The grpcio wire, whose
        library receives messages before it is asked, leaves that to the method.
    """

    run: Callable[[Call], Awaitable[Buffer | None]]
    unary: bool
    most: int | None = None


class Limits(NamedTuple):
    """What callers may take of a wire.

    message: bytes of a message, in either direction.
    streams: calls of a connection at a time.
    connections, per_address: connections in all, and of one address or /64 network.
    receive: seconds in which the one message of a call must come.
    send: seconds in which an answer must be read.
    idle: seconds without a call after which a connection is closed; 0 for never.
    age: seconds after which a connection takes no new calls; 0 for never.
    age_grace: seconds in which its calls may end then.
    """

    message: int
    streams: int
    connections: int
    per_address: int
    receive: float
    send: float
    idle: float
    age: float
    age_grace: float

    @classmethod
    def of(cls, config: ServerConfig) -> Self:
        """Those of the settings. Calls of a connection that has its age may finish as long as they
        may when the server ends."""
        return cls(
            message=config.max_message_mib * _MIB,
            streams=config.grpc_max_streams,
            connections=config.max_connections,
            per_address=config.connections_per_address,
            receive=config.grpc_receive_seconds,
            send=config.grpc_send_seconds,
            idle=config.grpc_idle_seconds,
            age=config.max_connection_age_seconds,
            age_grace=config.drain_seconds,
        )


class Wire(Protocol):
    """Listens, and runs the method of each call on the event loop.

    A call of a path without a method ends as UNIMPLEMENTED; so does one whose messages are
    compressed: inflating holds the event loop up.

    """

    @property
    def name(self) -> str:
        """As `--wire` has it."""

    def bind(self, host: str, port: int) -> int:
        """Opens the port, 0 for a free one, and returns its number. Raises StartError."""

    def bind_socket(self, path: Path) -> None:
        """Also listens on a Unix socket. Raises StartError."""

    async def start(self, methods: Mapping[str, Method]) -> None:
        """Begins to take calls. methods: by path, "/package.Service/Method"."""

    async def stop(self, grace: float) -> None:
        """Takes no more calls; those under way are cancelled after `grace` seconds."""

"""How many connections an HTTP port may have."""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple, Protocol

from serving.base.turns import Readers, Turns
from serving.server.config import ServerConfig

# Bytes a second below which a body that arrives, or an answer that is read, is too slow. Lower lets
# callers hold memory for longer, higher cuts callers on bad lines.
SLOWEST_RATE = 64 << 10
# Connections beyond the limit that are answered questions of health alone.
_SPARE = 16
# Connections that a newcomer may take the place of are looked for among so many of the oldest.
# More find an idle one more often and make each newcomer dearer.
_LOOKED_AT = 16


class HttpLimits(NamedTuple):
    """Limits on the callers of a port.

    connections, per_address: connections at a time, in all and of one address.
    head: seconds from the first byte of a request, or from connecting, to the end of its head.
    idle: seconds between an answer and the next request.
    transfer: seconds in which a body must arrive, and an answer be read, beside a second for every
        SLOWEST_RATE bytes of it.
    stall: seconds in which some bytes of it must pass.
    """

    connections: int = 1024
    per_address: int = 512
    head: float = 10.0
    idle: float = 75.0
    transfer: float = 30.0
    stall: float = 10.0

    @classmethod
    def of(cls, config: ServerConfig) -> "HttpLimits":
        """The limits that a config sets."""
        return cls(
            config.max_connections,
            config.connections_per_address,
            config.http_head_seconds,
            config.http_idle_seconds,
            config.http_transfer_seconds,
            config.http_stall_seconds,
        )


class Held(Protocol):
    """A connection that is counted.

    address: whose it is.
    used: it has asked for something since it was last looked at.
    spare: it is one too many.
    """

    address: str
    used: bool
    spare: bool

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""

    def force_close(self) -> None:
        """Closes it."""


# In the order in which they were let in or, later, passed over.
_Crowd = dict[Held, None]


class Connections:
    """The open connections of a port. `refused` counts what was refused or cut, by reason; `turns`
    are those of large inflated bodies, `readers` those that have much to read.

    A newcomer beyond a limit takes the place of a connection that waits for a request: of the same
    address where that has too many, else of any. Where none waits, it is let in to ask for health,
    in the place of another of this kind if need be. Callers on a Unix socket are counted as one
    address, and those of the network take nothing from them.
    """

    def __init__(self, limits: HttpLimits, refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.refused = refused
        self.turns = Turns()
        self.readers = Readers()
        self._all: _Crowd = {}
        self._of: dict[str, _Crowd] = {}
        self._spare: _Crowd = {}

    def __len__(self) -> int:
        return len(self._all) + len(self._spare)

    def admit(self, newcomer: Held) -> bool:
        """Whether there is place for a connection; it is counted then, until it leaves."""
        neighbours = self._of.get(newcomer.address, {})
        crowd = None
        if len(neighbours) >= self.limits.per_address:
            crowd = neighbours
        elif newcomer.address and len(self._all) >= self.limits.connections:
            crowd = self._all
        if crowd is None or self._make_room(crowd):
            self._of.setdefault(newcomer.address, {})[newcomer] = None
            self._all[newcomer] = None
            return True
        self.refused("connections")
        if len(self._spare) >= _SPARE and not self._make_room(self._spare):
            return False
        self._spare[newcomer] = None
        newcomer.spare = True
        return True

    def leave(self, one: Held) -> None:
        """Forgets a connection, if it was let in."""
        self._spare.pop(one, None)
        if one not in self._all:
            return
        del self._all[one]
        neighbours = self._of[one.address]
        del neighbours[one]
        if not neighbours:
            del self._of[one.address]

    def _make_room(self, crowd: _Crowd) -> bool:
        """Closes an idle connection, rather one that has asked for nothing since the last look."""
        chosen = None
        for one in list(islice(crowd, _LOOKED_AT)):
            if one.idle and not one.used:
                chosen = one
                break
            if one.idle and chosen is None:
                chosen = one
            one.used = False
            del crowd[one]
            crowd[one] = None
        if chosen is None:
            return False
        self.refused("idle")
        self.leave(chosen)
        chosen.force_close()
        return True

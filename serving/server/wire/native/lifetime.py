"""How long a connection and its calls may go on."""

import random
import time
from typing import TYPE_CHECKING, NamedTuple

import grpc

from serving.base.errors import DeadlineExpired
from serving.server.wire.interface import End

if TYPE_CHECKING:
    from serving.server.wire.native.connection import Connection

# Seconds that an answer may wait for its reader while memory is short.
_SLOW_READER_SECONDS = 1.0
# Share by which the age of connections differs, so that those of one moment do not end at one.
_AGE_SPREAD = 0.1


class Times(NamedTuple):
    """Seconds that nobody sets.

    sweep: between two looks at all connections.
    handshake: that a connection may take until it speaks HTTP/2.
    ping, ping_timeout: between pings of a connection on which nothing comes, and until it is closed
        where none is answered: its caller has gone without a word.
    linger: that the other side may take to close a connection that has ended here.
    """

    sweep: float = 1.0
    handshake: float = 10.0
    ping: float = 120.0
    ping_timeout: float = 20.0
    linger: float = 1.0


class Lifetime:
    """Of one connection; all times are monotonic seconds.

    heard: when something came last.
    quiet: when its last call ended.
    greeted: it has begun to speak HTTP/2.
    """

    def __init__(self, connection: "Connection", times: Times) -> None:
        self._connection = connection
        self._times = times
        self.heard = self.quiet = now = time.monotonic()
        self.greeted = False
        age = connection.limits.age
        self._began = now
        self._old = now + age * random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD) if age else 0.0
        self._pinged = 0.0
        # When its calls must have ended; 0 while it takes new ones.
        self._end_by = 0.0
        self._said_goodbye = False
        self._close_by = 0.0

    def linger(self) -> None:
        """Its calls have ended, and the other side may close it."""
        self._close_by = time.monotonic() + self._times.linger

    def retire(self, grace: float) -> None:
        """Takes no new calls, by two steps: those that the other side began before it knew are
        answered. Ends those that are left after `grace` seconds."""
        now = time.monotonic()
        if not self.greeted:
            self._connection.abort()
        elif not self._end_by:
            self._connection.sending.retire()
        self._end_by = now + grace

    def pinged(self) -> None:
        """A ping was answered: one that followed the first step, or that asked for a sign."""
        if self._end_by and not self._said_goodbye:
            self._said_goodbye = True
            self._connection.sending.goodbye()

    def look(self, now: float, short: bool) -> None:
        """Ends what has lasted too long. short: memory is."""
        connection, times = self._connection, self._times
        if self._close_by:
            if now >= self._close_by:
                connection.abort()
            return
        if not self.greeted:
            if now - self._began >= times.handshake:
                connection.abort()
            return
        if self._silent(now):
            connection.abort()
            return
        self._look_at_age(now)
        self._look_at_calls(now, short)

    def _silent(self, now: float) -> bool:
        """Whether the other side has not even answered a ping."""
        if now - self.heard < self._times.ping:
            self._pinged = 0.0
        elif not self._pinged:
            self._pinged = now
            self._connection.sending.ping()
        return bool(self._pinged) and now - self._pinged >= self._times.ping_timeout

    def _look_at_age(self, now: float) -> None:
        connection, limits = self._connection, self._connection.limits
        if self._end_by:
            self.pinged()  # a second has passed, longer than a way there and back
            if now >= self._end_by:
                connection.end()
        elif (self._old and now >= self._old) or (
            limits.idle and not connection.calls and now - self.quiet >= limits.idle
        ):
            self.retire(limits.age_grace)

    def _look_at_calls(self, now: float, short: bool) -> None:
        connection, limits = self._connection, self._connection.limits
        patience = min(limits.send, _SLOW_READER_SECONDS) if short else limits.send
        reason = "memory" if patience < limits.send else "send"
        stuck = connection.sending.stuck
        if stuck and now - stuck >= patience:
            connection.cuts.count(reason)
            connection.abort()
            return
        for call in [*connection.calls.values()]:
            if call.sending and now - call.sending >= patience:
                connection.cuts.count(reason)
                connection.sending.reset(call)
                call.sending = now
            elif call.late(now - limits.receive):
                connection.cuts.count("receive")
                call.refuse(
                    DeadlineExpired(f"its message did not come within {limits.receive:g} s")
                )


def shutting_down() -> End:
    """The status of calls that are left at the end. Clients may repeat them elsewhere."""
    return End(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

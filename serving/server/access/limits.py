"""How much a caller may have: rates, calls and bytes at a time, quotas of a day."""

import time
from collections.abc import Callable
from typing import TypeVar

from serving.base.errors import OverLimit
from serving.server.access.policy import Limits

Kind = TypeVar("Kind")
Number = TypeVar("Number")

# Callers whose use is remembered; beyond it those go who have nothing under way, longest unseen
# first. More take memory (1 KiB each), fewer let callers under many names begin anew.
_ACCOUNTS = 10_000
# Seconds whose worth of a rate may come at once. More lets callers come in bursts.
_BURST_SECONDS = 1.0
# Seconds after which a caller with too many calls, streams or bytes may try again.
_RETRY_SECONDS = 0.1
# Seconds after which a caller is told to try again at the most. The wire's durations end, too.
_DAY = 86_400


class Rate:
    """The generic cell rate algorithm (ITU-T I.371): events are due one after another, and who is
    ahead of that by more than a burst must wait.

    An event of more units than a burst is let through as one of a single unit is, and those that
    follow wait for all of it.
    """

    __slots__ = ("_ahead", "_due", "_name", "_per_second")

    def __init__(self, name: str, per_second: float) -> None:
        self._name = name
        self._per_second = per_second
        # Seconds by which the next event may be ahead.
        self._ahead = max(0.0, _BURST_SECONDS - 1.0 / per_second) + 1e-9
        # When all that came would have been due, monotonic seconds.
        self._due = 0.0

    def check(self, now: float) -> None:
        """Raises OverLimit for a caller who is too far ahead."""
        wait = self._due - now - self._ahead
        if wait > 0:
            text = f"your limit is reached: {self._name} {self._per_second:g}"
            raise OverLimit(text, min(wait, _DAY))

    def took(self, units: float, now: float) -> None:
        """Counts units."""
        self._due = max(self._due, now) + units / self._per_second


class Quota:
    """A number of units of a day in UTC. A server that is started anew begins anew.

    A clock that is set back over midnight begins no day again; one that was wrong by more does.
    """

    __slots__ = ("_day", "_left", "_name", "_units")

    def __init__(self, name: str, units: int) -> None:
        self._name = name
        self._units = self._left = units
        self._day = 0

    def check(self) -> None:
        """Raises OverLimit where none is left."""
        now = time.time()
        day = int(now // _DAY)
        if not self._day - 1 <= day <= self._day:
            self._day, self._left = day, self._units
        if self._left <= 0:
            raise OverLimit(
                f"your limit is reached: {self._name} {self._units}", (day + 1) * _DAY - now
            )

    def took(self, units: int) -> None:
        """Counts units."""
        self._left -= units


class Account:
    """What one caller has.

    calls, streams, held: at a time; held in bytes.
    """

    __slots__ = (
        "_day_images", "_day_requests", "_images", "_pixels", "_quotas", "_rates", "_requests",
        "calls", "held", "limits", "streams",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.calls = self.streams = self.held = 0
        self._requests = _made(Rate, "requests_per_second", limits.requests_per_second)
        self._images = _made(Rate, "images_per_second", limits.images_per_second)
        self._pixels = _made(Rate, "pixels_per_second", limits.pixels_per_second)
        self._day_requests = _made(Quota, "requests_per_day", limits.requests_per_day)
        self._day_images = _made(Quota, "images_per_day", limits.images_per_day)
        rates = (self._requests, self._images, self._pixels)
        self._rates = [rate for rate in rates if rate is not None]
        quotas = (self._day_requests, self._day_images)
        self._quotas = [quota for quota in quotas if quota is not None]

    def enter(self) -> None:
        """Begins a call. Raises OverLimit where any limit is reached; then nothing is counted."""
        now = time.monotonic()
        most = self.limits.calls
        if most is not None and self.calls >= most:
            raise _reached("calls", most)
        for rate in self._rates:
            rate.check(now)
        for quota in self._quotas:
            quota.check()
        if self._requests is not None:
            self._requests.took(1, now)
        if self._day_requests is not None:
            self._day_requests.took(1)
        self.calls += 1

    def leave(self, held: int) -> None:
        """Ends a call that held so many bytes."""
        self.calls -= 1
        self.held -= held

    def hold(self, size: int) -> None:
        """Counts bytes until the call ends. Raises OverLimit."""
        most = self.limits.bytes_held
        if most is not None and self.held + size > most:
            raise _reached("bytes_held", most)
        self.held += size

    def images(self, number: int) -> None:
        """Counts images, which the next call pays for. Raises OverLimit where calls that came in
        meanwhile have used up the day's: many may have begun before one of them had counted."""
        if self._day_images is not None:
            self._day_images.check()
            self._day_images.took(number)
        if self._images is not None:
            self._images.took(number, time.monotonic())

    def pixels(self, number: int) -> None:
        """Counts pixels, which the next call pays for."""
        if self._pixels is not None:
            self._pixels.took(number, time.monotonic())

    def open_stream(self) -> None:
        """Counts a stream until `close_stream`. Raises OverLimit."""
        most = self.limits.streams
        if most is not None and self.streams >= most:
            raise _reached("streams", most)
        self.streams += 1

    def close_stream(self) -> None:
        """Ends a stream."""
        self.streams -= 1

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self.calls or self.streams)


class Accounts:
    """The accounts of all callers, by name."""

    def __init__(self) -> None:
        # The one unseen for longest is first.
        self._all: dict[str, Account] = {}

    def of(self, name: str, limits: Limits) -> Account:
        """The account of a caller. One whose limits have changed gets a new one, and calls under
        way end in the old."""
        account = self._all.pop(name, None)
        if account is not None and account.limits is not limits and account.limits == limits:
            account.limits = limits  # of a policy that was read again
        if account is None or account.limits is not limits:
            account = Account(limits)
            if len(self._all) >= _ACCOUNTS:
                self._forget()
        self._all[name] = account
        return account

    def _forget(self) -> None:
        for name, account in self._all.items():
            if account.idle:
                del self._all[name]
                return


def _made(kind: Callable[[str, Number], Kind], name: str, number: Number | None) -> Kind | None:
    return None if number is None else kind(name, number)


def _reached(name: str, most: int) -> OverLimit:
    return OverLimit(f"your limit is reached: {name} {most}", _RETRY_SECONDS)

"""One phase from start to end: workers play, the server is looked at, somebody watches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadtest.generator.arrivals import Arrivals
from loadtest.generator.fleet import Fleet, Interrupt
from loadtest.measurement.server_counters import Observed, Observer, difference
from loadtest.report import latency
from loadtest.results import OK, RECORD, Phase, Records, records_of

# A p99 may look stable by accident in the first seconds.
_LEAST_SECONDS = 5.0
_CHECK_EVERY = 1.0


class PhaseView(Protocol):
    """Who watches a phase."""

    def begin(self, label: str, warmup: float, seconds: float) -> None:
        """A phase begins; `seconds` is all of it, the warm-up included."""

    def tick(self, elapsed: float, records: Records) -> None:
        """`elapsed` seconds in, these records are new."""

    def end(self) -> None:
        """The phase is over."""


@dataclass(frozen=True)
class PhaseTerms:
    """What all phases share. `stable` (a share of p99) ends a phase once its p99 is known that
    well; None: it runs its full time. Times are seconds."""

    warmup: float
    seconds: float
    workers: int
    seed: int
    max_in_flight: int
    requests: int = 0
    stable: float | None = None


class PhaseRunner:
    """Runs phases, each on the same workers."""

    def __init__(
        self, fleet: Fleet, terms: PhaseTerms, view: PhaseView, interrupt: Interrupt
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._view = view
        self._interrupt = interrupt
        self._phases = 0

    @property
    def interrupted(self) -> bool:
        """Whether somebody wants it to end."""
        return self._interrupt.requested

    def run(
        self,
        label: str,
        url: str,
        arrivals: Arrivals,
        observer: Observer,
        *,
        warmup: float | None = None,
        seconds: float | None = None,
    ) -> Phase:
        """Plays one phase; the times are those of the terms where none are given."""
        terms = self._terms
        begin = terms.warmup if warmup is None else warmup
        whole = begin + (terms.seconds if seconds is None else seconds)
        watch = _Watch(self._view, observer, begin, terms.stable)
        self._view.begin(label, begin, whole)
        played = self._fleet.play(
            url,
            arrivals,
            whole,
            # Each phase draws anew, and the same run draws the same.
            seed=terms.seed + self._phases,
            max_in_flight=terms.max_in_flight,
            requests=terms.requests,
            interrupt=self._interrupt,
            watch=watch,
        )
        self._phases += 1
        self._view.end()
        after = observer.look()
        records = records_of(played.chunks)
        end = whole if played.stopped is None else min(max(played.stopped, 0.0), whole)
        if terms.requests and len(records):
            end = min(end, float((records["due"] + records["latency"]).max()) + 1e-6)
        return Phase(
            label=label,
            url=url,
            arrivals=arrivals.kind,
            rate=_offered(arrivals),
            concurrency=arrivals.concurrency,
            started=played.started,
            begin=min(begin, end),
            end=end,
            workers=terms.workers,
            generator_cpu=played.cpu / played.elapsed,
            interrupted=played.interrupted,
            server=difference(watch.before, after) if watch.before is not None else {},
            records=records,
        )


def _offered(arrivals: Arrivals) -> float:
    """Requests/s that are due on average; 0 where all of a replay are due at once."""
    if arrivals.kind != "replay":
        return arrivals.rate
    return len(arrivals.times) / arrivals.times[-1] if arrivals.times[-1] else 0.0


class _Watch:
    """Passes records on to the view, looks at the server when the warm-up is over, and says when
    p99 is known well enough."""

    def __init__(
        self, view: PhaseView, observer: Observer, begin: float, stable: float | None
    ) -> None:
        self._view = view
        self._observer = observer
        self._begin = begin
        self._stable = stable
        self._kept: list[Records] = []
        self._next_check = begin + _LEAST_SECONDS
        self.before: Observed | None = None

    def __call__(self, elapsed: float, chunks: Sequence[bytes]) -> bool:
        if self.before is None and elapsed >= self._begin:
            self.before = self._observer.look()
        new = np.frombuffer(b"".join(chunks), RECORD)
        self._view.tick(elapsed, new)
        if self._stable is None:
            return False
        self._kept.append(new[(new["status"] == OK) & (new["due"] >= self._begin)])
        if elapsed < self._next_check:
            return False
        self._next_check = elapsed + _CHECK_EVERY
        records = np.concatenate(self._kept)
        records = records[np.argsort(records["due"])]
        return latency.instability(records["due"], records["latency"]) <= self._stable

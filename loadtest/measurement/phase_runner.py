"""Runs one phase from start to end: workers play, counters of the server are read around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadtest.generator.arrivals import Arrivals
from loadtest.generator.fleet import Fleet, Interrupt
from loadtest.measurement.server_counters import Observed, Observer, difference
from loadtest.report import latency
from loadtest.results import OK, RECORD, Phase, Records, records_of

# Seconds of the measured part before `stable` may end a phase: in fewer a p99 may look stable by
# accident.
_LEAST_SECONDS = 5.0
# Seconds between two tests of the stability.
_CHECK_EVERY = 1.0


class PhaseView(Protocol):
    """Shows the progress of a phase."""

    def begin(self, label: str, warmup: float, seconds: float) -> None:
        """A phase begins that lasts `seconds`, the warm-up included."""

    def tick(self, elapsed: float, records: Records) -> None:
        """Called every tick with the seconds since the start and the new records."""

    def end(self) -> None:
        """The phase has ended."""


@dataclass(frozen=True)
class PhaseTerms:
    """Settings of all phases.

    warmup, seconds: length of the warm-up and of the measured part, in seconds.
    requests: requests of a closed loop at most; 0 is no limit.
    stable: ends a phase once p99 is known to this share of it; None runs the full time.
    """

    warmup: float
    seconds: float
    workers: int
    seed: int
    max_in_flight: int
    requests: int = 0
    stable: float | None = None


class PhaseRunner:
    """Runs phases one after the other on the same workers."""

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
        """Whether the user wants to end the run."""
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
        """Plays one phase; times that are not given are those of the terms."""
        terms = self._terms
        begin = terms.warmup if warmup is None else warmup
        whole = begin + (terms.seconds if seconds is None else seconds)
        watch = _Watch(self._view, observer, begin, terms.stable)
        if begin <= 0:  # the first tick may come when a short run is over
            watch.before = observer.look()
        self._view.begin(label, begin, whole)
        played = self._fleet.play(
            url,
            arrivals,
            whole,
            # Phases have other arrivals than each other, and the same in every run.
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
    """Called every tick: hands records to the view, reads the server's counters when the warm-up
    ends, and tells whether p99 is known well enough."""

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

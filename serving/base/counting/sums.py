"""Sums by labels: one process writes them, and those of several processes add up.

A child is a few numbers. Only the event loop writes to it, without a lock; to a Count every thread
may. Sums travel as plain lists, and show themselves as families of Prometheus.
"""

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
# Labels and numbers of each child, as JSON can hold them.
Rows = list[tuple[Sequence[str], Sequence[float]]]


class Child(Protocol):
    """The sums under one set of labels."""

    def numbers(self) -> Sequence[float]:
        """All of it."""

    def add(self, numbers: Sequence[float]) -> None:
        """Adds the numbers of another one."""


C = TypeVar("C", bound=Child)


class Sums(Generic[C]):
    """Children by their labels.

    name, documentation, names: as Prometheus shows them; `names` are those of the labels.
    make: makes a child, with nothing in it.
    """

    def __init__(
        self, name: str, documentation: str, names: Sequence[str], make: Callable[[], C]
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.names = names
        self._make = make
        self._children: dict[Labels, C] = {}

    def labels(self, *values: str) -> C:
        """The child with these values, made on first use."""
        child = self._children.get(values)
        if child is None:
            child = self._children.setdefault(values, self._make())
        return child

    def children(self) -> list[tuple[Labels, C]]:
        """All children. Any thread may add others meanwhile."""
        return list(self._children.items())

    def rows(self) -> Rows:
        """All numbers, for another process."""
        return [(values, list(child.numbers())) for values, child in self.children()]

    def add(self, rows: Rows) -> None:
        """Adds the numbers of another process."""
        for values, numbers in rows:
            self.labels(*values).add(numbers)

    def collect(self) -> Iterable[Metric]:
        """The families that Prometheus shows; these sums are shown by others."""
        return ()


class Count:
    """A number of events."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = threading.Lock()

    def inc(self, by: float = 1) -> None:
        """Counts events; every thread may."""
        with self._lock:
            self.value += by

    def numbers(self) -> Sequence[float]:
        """[events]"""
        return (self.value,)

    def add(self, numbers: Sequence[float]) -> None:
        """Adds events."""
        self.inc(numbers[0])


class Tally(Sums[Count]):
    """Counts of events."""

    def __init__(self, name: str, documentation: str, names: Sequence[str]) -> None:
        super().__init__(name, documentation, names, Count)

    def count(self, *values: str) -> None:
        """Counts one event with these labels."""
        self.labels(*values).inc()

    def collect(self) -> Iterable[Metric]:
        """The counts, by labels."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.names)
        for values, child in self.children():
            family.add_metric(values, child.value)
        yield family


class Distribution:
    """One child of a histogram. Each call to a model observes four.

    With a binary search of the bucket, and without a lock, it costs a tenth of the Prometheus
    client's own.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value in the first bucket whose bound is not below it."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def numbers(self) -> Sequence[float]:
        """The values in each bucket, and their sum."""
        return (*self.counts, self.total)

    def add(self, numbers: Sequence[float]) -> None:
        """Adds the values of another one with the same bounds."""
        *counts, total = numbers
        self.counts = [a + int(b) for a, b in zip(self.counts, counts, strict=True)]
        self.total += total


class Histogram(Sums[Distribution]):
    """Distributions over the same buckets.

    exemplars: by labels and number of the bucket, the newest value in it that has a trace.
    """

    def __init__(
        self, name: str, documentation: str, names: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(name, documentation, names, lambda: Distribution(bounds))
        self._bounds = bounds
        self.exemplars: dict[tuple[Labels, int], Exemplar] = {}

    def mark(self, labels: Labels, value: float, exemplar: dict[str, str]) -> None:
        """Makes a value that was observed the exemplar of its bucket, with labels that name its
        trace."""
        bucket = bisect.bisect_left(self._bounds, value)
        self.exemplars[labels, bucket] = Exemplar(exemplar, value, time.time())

    def collect(self) -> Iterable[Metric]:
        """Every child, its buckets added up."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.names)
        for values, child in self.children():
            bounds = [*map(floatToGoString, child.bounds), "+Inf"]
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for number, total in enumerate(itertools.accumulate(child.counts)):
                exemplar = self.exemplars.get((values, number))
                bucket = bounds[number], total
                buckets.append(bucket if exemplar is None else (*bucket, exemplar))
            family.add_metric(values, buckets, child.total)
        yield family


class Level:
    """A number that rises and falls."""

    __slots__ = ("_read", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Sets it."""
        self.value = value

    def set_function(self, read: Callable[[], float]) -> None:
        """Has it read whenever somebody looks."""
        self._read = read

    def numbers(self) -> Sequence[float]:
        """[value]"""
        return (self.value if self._read is None else self._read(),)

    def add(self, numbers: Sequence[float]) -> None:
        """Adds the level of another process."""
        self.value += numbers[0]


class Highest(Level):
    """A number that is the same in each process that has it."""

    __slots__ = ()

    def add(self, numbers: Sequence[float]) -> None:
        """The higher of the two."""
        self.value = max(self.value, numbers[0])


class Levels(Sums[Level]):
    """Numbers that rise and fall. They end with their process, whose other sums stay."""

    def __init__(
        self,
        name: str,
        documentation: str,
        names: Sequence[str] = (),
        make: Callable[[], Level] = Level,
    ) -> None:
        super().__init__(name, documentation, names, make)

    def remove(self, *values: str) -> None:
        """Takes a level out, where it is there."""
        self._children.pop(values, None)

    def collect(self) -> Iterable[Metric]:
        """The levels, by labels."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.names)
        for values, child in self.children():
            family.add_metric(values, child.numbers()[0])
        yield family


@dataclass(slots=True)
class Duration:
    """A number of events, and the nanoseconds that they took together."""

    count: int = 0
    ns: int = 0

    def took(self, seconds: float, count: int = 1) -> None:
        """Adds `count` events that took `seconds` together."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def numbers(self) -> Sequence[float]:
        """[events, nanoseconds]"""
        return (self.count, self.ns)

    def add(self, numbers: Sequence[float]) -> None:
        """Adds the events of another process."""
        self.count += int(numbers[0])
        self.ns += int(numbers[1])


class Snapshot(NamedTuple):
    """The sums of one process at a moment, by their names; JSON can hold it.

    counts: sums that only grow. Those of a process that has ended are kept.
    levels: numbers that end with their process.
    """

    counts: dict[str, Rows]
    levels: dict[str, Rows]


class Share:
    """All sums that one writer keeps: the attributes of a class below."""

    def families(self) -> dict[str, Sums[Any]]:
        """The sums by their names."""
        return {sums.name: sums for sums in vars(self).values() if isinstance(sums, Sums)}

    def snapshot(self) -> Snapshot:
        """Its sums now."""
        taken = Snapshot({}, {})
        for name, sums in self.families().items():
            part = taken.levels if isinstance(sums, Levels) else taken.counts
            part[name] = sums.rows()
        return taken

    async def refresh(self) -> None:
        """Fetches sums that another process keeps; here none does."""

    def add(self, taken: dict[str, Rows]) -> None:
        """Adds those sums of a process that are kept here too."""
        for name, sums in self.families().items():
            sums.add(taken.get(name, []))

    def show_exemplars(self, share: "Share") -> None:
        """Shows the exemplars of another one too, of this process."""
        own = self.families()
        for name, sums in share.families().items():
            if isinstance(sums, Histogram) and isinstance(mine := own.get(name), Histogram):
                mine.exemplars |= sums.exemplars

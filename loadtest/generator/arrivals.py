"""When requests are due: pure functions of time, seeded."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.results import read_run

Kind = Literal["closed", "constant", "poisson", "bursts", "replay"]
# Those that have a rate.
OPEN_KINDS: tuple[Kind, ...] = ("constant", "poisson", "bursts")

_CHUNK = 4096


@dataclass(frozen=True)
class Arrivals:
    """How requests arrive.

    closed: `concurrency` callers, each sends when it has its answer. The others are open loops,
    which send whatever the server does: `rate` requests/s on average, bursts of `burst_size` at
    once; replay has the due `times` (seconds from the start, ascending) of a recording.
    """

    kind: Kind
    rate: float = 0.0
    concurrency: int = 0
    burst_size: int = 1
    times: tuple[float, ...] = ()


def due_times(arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Due times of an open loop, seconds from its start, ascending; endless but for a replay."""
    match arrivals.kind:
        case "constant":
            return (i / arrivals.rate for i in itertools.count())
        case "poisson":
            return _poisson(arrivals.rate, seed)
        case "bursts":
            interval = arrivals.burst_size / arrivals.rate
            return (i // arrivals.burst_size * interval for i in itertools.count())
        case "replay":
            return iter(arrivals.times)
        case "closed":
            raise ValueError("a closed loop has no due times")


def share_of(times: Iterator[float], worker: int, workers: int) -> Iterator[float]:
    """Every `workers`-th due time: the shares of all workers together are the whole schedule."""
    return itertools.islice(times, worker, None, workers)


def _poisson(rate: float, seed: int) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        chunk = now + np.cumsum(generator.exponential(1 / rate, _CHUNK))
        now = float(chunk[-1])
        yield from chunk.tolist()


def read_recording(path: Path) -> tuple[float, ...]:
    """Due times of a recorded file: a raw file of a load test, or text with one time a line in
    seconds; they are moved so that the first is 0. Raises LoadTestError."""
    if path.suffix == ".npz":
        times = [float(t) for phase in read_run(path).phases[:1] for t in phase.records["due"]]
    else:
        times = _read_lines(path)
    if not times:
        raise LoadTestError(f"{path}: no arrivals in it")
    times.sort()
    return tuple(t - times[0] for t in times)


def _read_lines(path: Path) -> list[float]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadTestError(f"{path}: cannot be read as text ({error})") from error
    times = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            time = float(text)
        except ValueError:
            time = math.nan
        if not math.isfinite(time):
            raise LoadTestError(f"{path}:{number}: expected seconds, got {text!r}")
        times.append(time)
    return times


def parse_concurrency(text: str) -> tuple[int, ...]:
    """`8`, `1,2,4`, or the range `1..32`, which doubles. Raises ValueError."""
    if ".." not in text:
        levels = tuple(int(part) for part in text.split(","))
    else:
        first, last = (int(part) for part in text.split(".."))
        if not 1 <= first <= last:
            raise ValueError(text)
        doubled = [first << i for i in range((last // first).bit_length())]
        levels = tuple(doubled if doubled[-1] == last else [*doubled, last])
    if min(levels) < 1:
        raise ValueError(text)
    return levels

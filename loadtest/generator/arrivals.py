"""Due times of requests: pure functions of a seed."""

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
# The kinds that have a rate.
OPEN_KINDS: tuple[Kind, ...] = ("constant", "poisson", "bursts")

# Arrivals drawn at a time.
_CHUNK = 4096


@dataclass(frozen=True)
class Arrivals:
    """How requests arrive: in a closed loop, or in an open loop of one of the other kinds.

    rate: requests/s on average of constant, poisson and bursts.
    concurrency: callers of a closed loop, each of which sends when it has its answer.
    burst_size: requests due at once in bursts.
    times: due times of a replay, seconds from the start, ascending.
    """

    kind: Kind
    rate: float = 0.0
    concurrency: int = 0
    burst_size: int = 1
    times: tuple[float, ...] = ()


def due_times(arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Due times of an open loop, seconds from its start, ascending; without end but in a replay."""
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
    """Every `workers`-th due time, from number `worker` on: all workers share the schedule."""
    return itertools.islice(times, worker, None, workers)


def _poisson(rate: float, seed: int) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        chunk = now + np.cumsum(generator.exponential(1 / rate, _CHUNK))
        now = float(chunk[-1])
        yield from chunk.tolist()


def read_recording(path: Path) -> tuple[float, ...]:
    """Due times of a raw file of a load test, or of text with one time a line, in seconds.

    They are shifted so that the first is 0. Raises LoadTestError.
    """
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
    """Reads `8`, `1,2,4`, or the range `1..32`, which doubles. Raises ValueError."""
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

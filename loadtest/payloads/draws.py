"""The order of the requests, their deadlines and priorities: drawn at random, from a seed."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Requests drawn at a time.
_CHUNK = 1024


@dataclass(frozen=True)
class Distribution:
    """Values drawn by their weights, or uniformly between `bounds` where these are given."""

    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    bounds: tuple[float, float] | None = None

    def draw(self, random: np.random.Generator, count: int) -> Array:
        """Draws values, float64 [count]."""
        if self.bounds is not None:
            return random.uniform(*self.bounds, count)
        weights = np.array(self.weights)
        return random.choice(np.array(self.values), count, p=weights / weights.sum())


ALWAYS_ZERO = Distribution((0.0,), (1.0,))


def parse_distribution(text: str, read: Callable[[str], float]) -> Distribution:
    """`V`, `V=WEIGHT,V=WEIGHT` or `LOW..HIGH`, each V read by `read`. Raises ValueError."""
    if ".." in text:
        low, high = (read(part) for part in text.split(".."))
        if low > high:
            raise ValueError(text)
        return Distribution(bounds=(low, high))
    values, weights = [], []
    for part in text.split(","):
        value, _, weight = part.partition("=")
        values.append(read(value))
        weights.append(float(weight or 1))
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(text)
    return Distribution(tuple(values), tuple(weights))


def draws(
    groups: Sequence[tuple[int, float]],
    deadlines: Distribution,
    priorities: Distribution,
    seed: Sequence[int],
) -> Iterator[tuple[int, float, int]]:
    """Yields without end: number of the next payload, its deadline, its priority.

    The deadline is in seconds, 0 for none. Within a group every payload comes once, in random
    order, before any comes again.

    groups: number of payloads and weight of each model; payloads are numbered through.
    """
    random = np.random.default_rng(seed)
    sizes = [size for size, _ in groups]
    firsts = [0, *itertools.accumulate(sizes)]
    weights = np.array([weight for _, weight in groups])
    orders = [
        _endless_permutations(size, first, random)
        for size, first in zip(sizes, firsts, strict=False)
    ]
    while True:
        chosen = random.choice(len(groups), _CHUNK, p=weights / weights.sum()).tolist()
        due_in = deadlines.draw(random, _CHUNK).tolist()
        urgent = priorities.draw(random, _CHUNK).astype(int).tolist()
        for group, deadline, priority in zip(chosen, due_in, urgent, strict=True):
            yield next(orders[group]), deadline, priority


def _endless_permutations(size: int, first: int, random: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (first + random.permutation(size)).tolist()

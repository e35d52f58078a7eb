"""Strategies: valid inputs with random changes, and random bytes."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Base = TypeVar("Base")
# Bytes of an input that has nothing to do with a valid one.
_RANDOM_BYTES = 300


def changed(
    bases: Sequence[Base], change: Callable[[random.Random, Base], bytes]
) -> SearchStrategy[bytes]:
    """One of the bases after a change; sometimes bytes that never were one. The seed of a change is
    drawn, and not each of its steps: most of them would be given up for their length."""
    seeds = st.integers(0, (1 << 64) - 1)
    built = st.builds(
        lambda seed, base: change(random.Random(seed), base), seeds, st.sampled_from(bases)
    )
    return st.one_of(built, built, built, st.binary(max_size=_RANDOM_BYTES))


def check_text(error: Exception) -> None:
    """The text of an error says something, and not all that was sent."""
    assert 0 < len(str(error)) < 2000


def check_line(error: Exception) -> None:
    """It is one line, too."""
    check_text(error)
    assert "\n" not in str(error)


def check_foreseen(error: Exception) -> None:
    """It is one of our own, and not what the guard makes of a parser's surprise."""
    check_text(error)
    assert "cannot be read" not in str(error)

"""The soak: a short one, and what it calls level."""

import pytest

from benchmarks.serving.soak.__main__ import soak
from benchmarks.serving.soak.callers import RATES
from benchmarks.serving.soak.looks import Look, grown


def looks(memory: list[float], files: float = 20, threads: float = 9) -> list[Look]:
    return [Look(float(at), mib, files, threads) for at, mib in enumerate(memory)]


def test_growth_counts_from_the_end_of_the_first_sixth() -> None:
    begin = [float(100 + 5 * number) for number in range(20)]
    assert grown(looks(begin + [200.0] * 100)) == []
    [fault] = grown(looks(begin + [200.0 + number / 5 for number in range(100)]))
    assert fault.startswith("memory grew from 202")


def test_descriptors_and_threads_are_to_be_level_too() -> None:
    first, last = looks([100.0] * 60), looks([100.0] * 60, files=25, threads=12)
    assert [fault.split()[0] for fault in grown(first + last)] == ["files", "threads"]


@pytest.mark.slow
def test_a_short_soak_finds_nothing(wire: str) -> None:
    soaked = soak(20.0, load=2.0)
    assert soaked.faults == []
    assert set(RATES) - {"reload"} <= soaked.statuses.keys()

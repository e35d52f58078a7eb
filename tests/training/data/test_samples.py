"""Images of files are read in order, in threads where that saves time."""

import threading
import time

import numpy as np
import pytest

from training.data.readers import Loaded
from training.data.samples import FileSamples
from training.errors import DataError

NAMES = [f"{number}.jpg" for number in range(60)]


@pytest.fixture(autouse=True)
def several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a single one no threads would read."""
    monkeypatch.setattr("training.data.samples.core_count", lambda: 2)


class Reading:
    """Reads an item in `seconds`, and keeps who read it. Item 7 is broken."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.threads: list[int] = []

    def __call__(self, item: int) -> Loaded:
        self.threads.append(threading.get_ident())
        if self.seconds:
            time.sleep(self.seconds)
        if item == 7:
            raise DataError("is broken")
        return Loaded(np.full((2, 2, 3), item, np.uint8), np.asarray(item), (2, 2))


@pytest.mark.parametrize("seconds", [0.0, 0.002], ids=["quick", "slow"])
@pytest.mark.parametrize("threads", [None, 4])
def test_images_come_in_order_and_broken_ones_with_their_reason(
    seconds: float, threads: int | None
) -> None:
    samples = FileSamples(NAMES, range(60), Reading(seconds), threads)
    for asked in ([3, 1], [7], list(range(59, -1, -1)), []):
        found = samples.read(asked)
        told = [one if isinstance(one, str) else int(one.target) for one in found]
        assert told == ["is broken" if number == 7 else number for number in asked]
    images, targets = samples.batch([9, 2])
    assert images[:, 0, 0, 0].tolist() == targets.tolist() == [9, 2]
    with pytest.raises(DataError, match=r"7\.jpg: is broken"):
        samples.batch([6, 7, 8])


def test_small_images_are_read_without_threads() -> None:
    reading = Reading(0.0)
    samples = FileSamples(NAMES, range(60), reading)
    samples.read(range(60))
    assert set(reading.threads) == {threading.get_ident()}


def test_large_images_are_read_in_threads_once_they_have_shown_it() -> None:
    reading = Reading(0.002)
    samples = FileSamples(NAMES, range(60), reading)
    samples.read(range(20))
    samples.read(range(20))
    assert threading.get_ident() not in reading.threads[4:]


def test_a_few_images_at_a_time_show_it_too() -> None:
    reading = Reading(0.002)
    samples = FileSamples(NAMES, range(60), reading)
    for first in range(0, 12, 2):
        samples.read([first, first + 1])
    assert threading.get_ident() not in reading.threads[4:]


def test_large_images_behind_small_ones_are_read_in_threads() -> None:
    reading = Reading(0.0)
    samples = FileSamples(NAMES, range(60), reading)
    samples.read(range(20))
    reading.seconds = 0.002
    samples.read(range(60))
    known = len(reading.threads)
    samples.read(range(20))
    assert threading.get_ident() not in reading.threads[known:]


def test_items_of_a_network_are_read_in_threads_from_the_first_one_on() -> None:
    reading = Reading(0.0)
    FileSamples(NAMES, range(60), reading, threads=16).read(range(20))
    assert threading.get_ident() not in reading.threads

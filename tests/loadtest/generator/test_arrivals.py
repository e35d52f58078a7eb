import itertools
from pathlib import Path

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.generator.arrivals import (
    Arrivals,
    due_times,
    parse_concurrency,
    read_recording,
    share_of,
)


def first(count: int, arrivals: Arrivals, seed: int = 0) -> list[float]:
    return list(itertools.islice(due_times(arrivals, seed), count))


def test_constant_arrivals_are_evenly_apart() -> None:
    assert first(4, Arrivals("constant", rate=200)) == [0.0, 0.005, 0.01, 0.015]


def test_constant_arrivals_do_not_drift() -> None:
    assert first(30_001, Arrivals("constant", rate=300))[-1] == pytest.approx(100.0, abs=1e-9)


def test_poisson_arrivals_are_exponentially_apart() -> None:
    gaps = np.diff(first(50_000, Arrivals("poisson", rate=100)))
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() == pytest.approx(0.01, rel=0.03)
    assert np.median(gaps) == pytest.approx(0.01 * np.log(2), rel=0.03)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    arrivals = Arrivals("poisson", rate=50)
    assert first(9000, arrivals, 7) == first(9000, arrivals, 7)
    assert first(10, arrivals, 7) != first(10, arrivals, 8)


def test_bursts_keep_the_rate() -> None:
    times = first(12, Arrivals("bursts", rate=40, burst_size=4))
    assert times == [0.0] * 4 + [0.1] * 4 + [0.2] * 4


@pytest.mark.parametrize("kind", ["constant", "poisson", "bursts"])
def test_shares_of_workers_make_up_the_whole(kind: str) -> None:
    arrivals = Arrivals(kind, rate=100, burst_size=3)  # type: ignore[arg-type]
    shares = [
        list(itertools.islice(share_of(due_times(arrivals, 1), worker, 3), 100))
        for worker in range(3)
    ]
    assert sorted(itertools.chain(*shares)) == first(300, arrivals, 1)


def test_replay_is_the_recording_from_its_first_arrival(tmp_path: Path) -> None:
    recording = tmp_path / "arrivals.txt"
    recording.write_text("# seconds\n12.5\n12.25\n\n13\n")
    times = read_recording(recording)
    assert times == (0.0, 0.25, 0.75)
    assert list(due_times(Arrivals("replay", times=times), 0)) == [0.0, 0.25, 0.75]


@pytest.mark.parametrize("text", ["", "1\nx\n", "1\nnan\n"])
def test_a_bad_recording_is_refused(tmp_path: Path, text: str) -> None:
    recording = tmp_path / "arrivals.txt"
    recording.write_text(text)
    with pytest.raises(LoadTestError, match=r"arrivals\.txt"):
        read_recording(recording)


@pytest.mark.parametrize(
    ("text", "levels"),
    [("8", (8,)), ("1,2,6", (1, 2, 6)), ("1..32", (1, 2, 4, 8, 16, 32)), ("2..9", (2, 4, 8, 9))],
)
def test_concurrency_is_a_number_a_list_or_a_range(text: str, levels: tuple[int, ...]) -> None:
    assert parse_concurrency(text) == levels


@pytest.mark.parametrize("text", ["0", "x", "4..2", "-1", "1,0", ""])
def test_wrong_concurrency_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        parse_concurrency(text)

"""The time of a batch is the network's own, whoever else wants the cores meanwhile."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.base.machine import cpu
from serving.base.machine.cpu import CoreTime, thread_times
from serving.engines import measure
from serving.engines.measure import read_cached, write_cached
from tests.serving.batching.fake_engine import FakeEngine

BATCH = {"x": np.zeros((1, 2), np.float32)}


def timed(
    monkeypatch: pytest.MonkeyPatch, *calls: tuple[float, dict[str, tuple[float, float]]]
) -> float:
    """The typical milliseconds of calls that took so long, in which each thread ran and waited."""
    now, spent = 0.0, {"main": CoreTime(100.0, 50.0), "worker": CoreTime(90.0, 40.0)}
    left = iter(calls)

    class Engine(FakeEngine):
        def infer(self, inputs: object) -> dict[str, np.ndarray]:
            nonlocal now
            taken, threads = next(left, (1.0, {}))
            now += taken
            for name, (ran, waited) in threads.items():
                before = spent.get(name, CoreTime(0.0, 0.0))
                spent[name] = CoreTime(before.ran + ran, before.waited + waited)
            return {}

    monkeypatch.setattr(measure, "_WARMUP_CALLS", 0)
    monkeypatch.setattr(measure, "_MIN_CALLS", 3)
    monkeypatch.setattr(measure, "thread_times", lambda: dict(spent))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    total = sum(taken for taken, _ in calls)
    return measure.time_batches(Engine(), [(1, BATCH)], total)[1]


def test_calls_that_had_the_cores_count_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = (0.010, {"main": (0.010, 0.0), "worker": (0.009, 0.0004)})
    beside = (0.500, {"main": (0.010, 0.490), "worker": (0.009, 0.2)})
    found = timed(monkeypatch, *[beside] * 5, *[alone] * 3)
    assert found == pytest.approx(10)


def test_without_such_calls_a_wait_is_not_taken_for_work(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = (0.500, {"main": (0.010, 0.490), "worker": (0.009, 0.3)})
    assert timed(monkeypatch, *[beside] * 4) == pytest.approx(10)


def test_work_of_another_device_is_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = (0.500, {"main": (0.010, 0.1), "another": (0.0, 0.0)})
    assert timed(monkeypatch, *[on_gpu] * 4) == pytest.approx(400)


def test_threads_have_times_where_the_system_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def times() -> Iterator[CoreTime]:
        while True:
            yield thread_times()[str(threading.get_native_id())]

    own = times()
    before = next(own)
    while next(own).ran <= before.ran:
        pass
    monkeypatch.setattr(cpu, "_THREADS", tmp_path / "none")
    assert thread_times() == {}


def test_measurement_that_was_kept_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "table.json"
    write_cached(path, {1: 0.02, 32: 0.4})
    assert read_cached(path) == {1: 0.02, 32: 0.4}
    assert [file.name for file in path.parent.iterdir()] == ["table.json"]


def test_newer_measurement_replaces_the_kept_one(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_cached(path, {1: 0.02})
    write_cached(path, {1: 0.03})
    assert read_cached(path) == {1: 0.03}


def test_missing_file_is_no_measurement(tmp_path: Path) -> None:
    assert read_cached(tmp_path / "table.json") is None


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1, 2]", "7", "null", '"text"', '{"one": 1}', '{"1": "fast"}', '{"1": null}',
        '{"1": [0.1]}', "{}", '{"0": 0.1}', '{"-4": 0.1}', '{"1": 0}', '{"1": -0.1}',
        '{"1": NaN}', '{"1": Infinity}', '{"1": 0.1, "2": null}', "\x00\x01",
    ],
)  # fmt: skip
def test_file_that_holds_no_measurement_is_no_measurement(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    assert read_cached(path) is None


def test_file_that_is_no_text_is_no_measurement(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_cached(path) is None


def test_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "table.json"
    write_cached(path, {1: 0.02})
    assert read_cached(path) is None

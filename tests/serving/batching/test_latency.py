"""The prediction of how long a batch takes, and the file that keeps it."""

from pathlib import Path

import pytest

from serving.batching.latency import LatencyTable, read_cached, write_cached


@pytest.fixture
def table() -> LatencyTable:
    """Measured in no particular order of sizes."""
    return LatencyTable({8: 0.080, 1: 0.020, 4: 0.050})


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        (1, 0.020),
        (2, 0.030),
        (3, 0.040),
        (4, 0.050),
        (6, 0.065),
        (8, 0.080),
        # Past the last in proportion, below the first as the first.
        (16, 0.160),
        (12, 0.120),
        (0, 0.020),
    ],
)
def test_prediction_meets_and_joins_the_measurements(
    table: LatencyTable, rows: int, seconds: float
) -> None:
    assert table.predict(rows) == pytest.approx(seconds)


def test_single_measurement_serves_every_size() -> None:
    table = LatencyTable({4: 0.040})
    assert table.predict(1) == pytest.approx(0.040)
    assert table.predict(8) == pytest.approx(0.080)


def test_measurements_are_shown_by_size(table: LatencyTable) -> None:
    assert list(table.measured.items()) == [(1, 0.020), (4, 0.050), (8, 0.080)]


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (9, 8), (15, 8), (16, 16)]
)
def test_where_rows_take_as_long_in_smaller_batches_a_measured_size_is_good(
    rows: int, size: int
) -> None:
    table = LatencyTable({1: 0.010, 2: 0.020, 4: 0.039, 8: 0.078, 16: 0.150})
    assert table.good_size(rows) == size


def test_where_large_batches_are_faster_a_row_all_rows_are_good() -> None:
    table = LatencyTable({1: 0.010, 2: 0.010, 4: 0.012, 8: 0.014})
    assert [table.good_size(rows) for rows in range(1, 9)] == list(range(1, 9))


def test_good_size_is_never_less_than_half() -> None:
    assert LatencyTable({1: 0.010, 8: 0.080}).good_size(7) == 7
    assert LatencyTable({8: 0.080, 16: 0.160}).good_size(7) == 7


def test_slow_batches_of_one_size_slow_all_predictions(table: LatencyTable) -> None:
    table.observe(8, 0.160)
    # A tenth of the way from 1 to 2.
    assert table.factor == pytest.approx(1.1)
    assert table.predict(1) == pytest.approx(0.022)
    assert table.measured[1] == 0.020


def test_steady_change_is_learnt_within_a_few_dozen_batches(table: LatencyTable) -> None:
    for _ in range(50):
        table.observe(4, 0.150)
    assert table.predict(8) == pytest.approx(0.240, rel=0.01)
    for _ in range(80):
        table.observe(1, 0.010)
    assert table.predict(8) == pytest.approx(0.040, rel=0.01)


def test_batch_that_takes_as_long_as_expected_changes_nothing(table: LatencyTable) -> None:
    table.observe(6, 0.065)
    assert table.factor == pytest.approx(1.0)


def test_single_stall_does_not_close_the_door(table: LatencyTable) -> None:
    table.observe(1, 60.0)
    assert table.factor == pytest.approx(1.9)


def test_impossibly_fast_batch_does_not_open_it(table: LatencyTable) -> None:
    table.observe(1, 0.0)
    assert table.factor == pytest.approx(0.91)


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

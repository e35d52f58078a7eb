"""The prediction of how long a batch takes."""

import pytest

from serving.batching.latency import LatencyTable


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

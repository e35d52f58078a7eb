"""How many rows run, and the reason that is given."""

import math

import pytest

from serving.batching.latency import LatencyTable
from serving.batching.sizing import rows_to_run
from serving.batching.ticket import Ticket

# A row takes as long in every batch.
LINEAR = LatencyTable({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08})
# A batch takes as long whatever its rows.
FLAT = LatencyTable({1: 0.01, 8: 0.01})


@pytest.mark.parametrize(
    ("waiting", "head_rows", "left", "table", "preferred", "decided"),
    [
        (3, 1, math.inf, FLAT, (), (3, "")),
        (20, 1, math.inf, FLAT, (), (8, "")),
        (7, 1, math.inf, LINEAR, (), (4, "size")),
        (7, 6, math.inf, LINEAR, (), (6, "size")),
        (7, 1, 0.02, LINEAR, (), (2, "deadline")),
        (7, 3, 0.02, LINEAR, (), (3, "deadline")),
        # Late in any case: as few as can be.
        (7, 1, 0.001, LINEAR, (), (1, "deadline")),
        # A call that is all that waits is not cut.
        (6, 6, 0.001, FLAT, (), (6, "")),
        (7, 1, math.inf, FLAT, (3, 5), (5, "size")),
        (2, 1, math.inf, FLAT, (3, 5), (2, "")),
    ],
)
def test_rows_and_reason(
    waiting: int,
    head_rows: int,
    left: float,
    table: LatencyTable,
    preferred: tuple[int, ...],
    decided: tuple[int, str],
) -> None:
    head = Ticket(head_rows, 1, arrived=0.0, target=left)
    assert rows_to_run(waiting, head, 0.0, table, 8, preferred) == decided

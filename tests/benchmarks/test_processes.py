"""The kills of front, engine and loader process: a few of them, and the faults that they name."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.serving.processes.callers import Ended
from benchmarks.serving.processes.kills import files_a_kill, run
from benchmarks.serving.soak.looks import Look


def files(pid: int, *counts: float) -> list[tuple[int, Look]]:
    return [(pid, Look(0.0, 100.0, count, 9.0)) for count in counts]


def test_descriptors_are_counted_by_kill_and_not_by_process() -> None:
    assert files_a_kill([*files(1, 20, 20, 20), *files(2, 24, 24)]) == 0
    assert files_a_kill([*files(1, 20, 21, 22), *files(2, 20, 21)]) == 1
    assert files_a_kill(files(1, 20)) == 0


def test_a_status_that_no_death_explains_and_a_call_without_any_are_faults() -> None:
    ended = Ended()

    async def silent() -> None:
        await asyncio.Event().wait()

    async def right() -> None:
        return

    async def both() -> None:
        await ended.note("unary", right())
        await ended.note("unary", silent(), patience=0.01)

    asyncio.run(both())
    assert ended.faults() == ["unary: 1 calls ended with silence"]
    ended.begun += 1
    ended.statuses["hurried"]["DEADLINE_EXCEEDED"] += 1
    assert ended.faults() == ["unary: 1 calls ended with silence"]
    ended.begun += 1
    assert ended.faults()[1:] == ["1 calls have not ended"]


@pytest.mark.slow
def test_a_few_kills_of_each_process_lose_nothing(tmp_path: Path) -> None:
    assert asyncio.run(run(tmp_path, 8, seed=3)) == []

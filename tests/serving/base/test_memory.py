"""The budget of bytes, and the limit that it is derived from."""

import math
import threading
import time
from pathlib import Path

import pytest

from serving.base.errors import DeadlineExpired, InvalidInput, QueueFull
from serving.base.machine.memory import free_memory, memory_limit
from serving.base.memory import LARGE, UNLIMITED, LargeWork, MemoryBudget, Reservation, Unlimited


def test_budget_is_used_up_by_all_uses_together_and_given_back() -> None:
    budget = MemoryBudget(100)
    budget.take("message", 60)
    budget.take("answer", 40)
    with pytest.raises(QueueFull, match="100 of 100 bytes are held, 1 more for its rows") as full:
        budget.take("batch", 1)
    assert full.value.retry_after > 0
    assert (budget.used, budget.held("message"), budget.held("answer")) == (100, 60, 40)
    budget.give_back("answer", 40)
    budget.take("batch", 40)
    assert (budget.used, budget.held("answer"), budget.held("batch")) == (100, 0, 40)


def test_what_can_never_fit_is_bad_input_that_says_the_limit() -> None:
    budget = MemoryBudget(3 << 20)
    with pytest.raises(InvalidInput, match=r"3145729 bytes .* 3145728 \(--memory-mib 3\)"):
        budget.take("answer", (3 << 20) + 1)
    with pytest.raises(InvalidInput, match="decoded image"), budget.decoding(4 << 20, 0.0):
        pass
    assert budget.used == 0


def test_short_memory_gives_only_small_pieces() -> None:
    budget = MemoryBudget(100 << 20)
    budget.short = True
    budget.take("message", 64 << 10)
    with pytest.raises(QueueFull, match="memory is short"):
        budget.take("message", (64 << 10) + 1)
    with pytest.raises(QueueFull), budget.decoding(1 << 20, time.monotonic() + 10):
        pass
    budget.short = False
    budget.take("message", 1 << 20)


def test_bytes_that_are_there_count_whatever_the_limit() -> None:
    budget = MemoryBudget(100)
    budget.keep("answer", 150)
    with pytest.raises(QueueFull):
        budget.take("message", 1)
    budget.give_back("answer", 150)
    assert budget.used == 0


def test_decode_waits_for_another_decode_and_gives_its_bytes_back() -> None:
    budget = MemoryBudget(100)
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with budget.decoding(80, time.monotonic() + 60):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    threading.Timer(0.05, leave.set).start()
    with budget.decoding(80, time.monotonic() + 60):
        assert leave.is_set()
        assert budget.held("decode") == 80
    thread.join(60)
    assert budget.used == 0


def test_decode_does_not_wait_for_calls_that_may_take_long() -> None:
    budget = MemoryBudget(100)
    budget.take("message", 60)
    with pytest.raises(QueueFull, match="60 of 100 bytes"), budget.decoding(50, time.monotonic()):
        pass


def test_decode_of_a_call_that_ends_does_not_wait_on() -> None:
    budget = MemoryBudget(100)
    answers = iter([False, False, True])
    with (
        budget.decoding(80, 0.0),
        pytest.raises(DeadlineExpired),
        budget.decoding(80, math.inf, lambda: next(answers)),
    ):
        pytest.fail("it got the bytes")
    assert budget.used == 0


def test_decode_past_its_deadline_does_not_wait() -> None:
    budget = MemoryBudget(100)
    expired = pytest.raises(DeadlineExpired)
    with budget.decoding(80, 0.0), expired, budget.decoding(80, time.monotonic() - 1):
        pass
    assert budget.used == 0


# Folder, limit, use and cache of a control group, version 2 and 1.
GROUPS = [
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_limit_is_the_containers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1073741824\n")
    assert memory_limit(tmp_path) == 1 << 30


@pytest.mark.parametrize("content", ["max\n", "9223372036854771712\n"])
def test_without_a_container_limit_it_is_the_machines(tmp_path: Path, content: str) -> None:
    (tmp_path / "memory.max").write_text(content)
    assert (1 << 20) < memory_limit(tmp_path) < 1 << 50
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "absent")


@pytest.mark.parametrize(("folder", "limit", "used", "cached"), GROUPS)
def test_free_is_no_more_than_the_container_leaves(
    tmp_path: Path, folder: str, limit: str, used: str, cached: str
) -> None:
    stat = f"anon 5\n{cached} {100 << 20}\n"
    files = {limit: f"{1 << 30}\n", used: f"{700 << 20}\n", "memory.stat": stat}
    group = put(tmp_path / folder, **files)
    proc = put(tmp_path / "proc", meminfo="MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    assert free_memory(tmp_path, proc) == (1024 - 600) << 20
    put(proc, meminfo="MemAvailable:   1000 kB\n")
    assert free_memory(tmp_path, proc) == 1000 << 10
    # Past its limit, as the kernel allows for a moment.
    put(group, **{used: f"{3 << 30}\n"})
    assert free_memory(tmp_path, proc) == 0


@pytest.mark.parametrize(("folder", "limit", "used", "cached"), GROUPS)
def test_group_of_the_process_and_those_above_it_bound_it_too(
    tmp_path: Path, folder: str, limit: str, used: str, cached: str
) -> None:
    def group(place: str, most: str, taken: int) -> None:
        files = {limit: most, used: f"{taken << 20}", "memory.stat": f"{cached} 0\n"}
        put(tmp_path / folder / place, **files)

    lines = f"12:cpu,{folder}:/a.slice/b.scope\n1:name=x:/c\n0::/a.slice/b.scope\n"
    proc = put(tmp_path / "proc", meminfo="MemAvailable:   80000000 kB\n")
    put(proc / "self", cgroup=lines)
    group("a.slice/b.scope", f"{300 << 20}", 100)
    group("a.slice", f"{900 << 20}", 200)
    group("", "max", 1000)
    assert (memory_limit(tmp_path, proc), free_memory(tmp_path, proc)) == (300 << 20, 200 << 20)
    # Others of the slice have taken nearly all of it.
    group("a.slice", f"{900 << 20}", 850)
    assert (memory_limit(tmp_path, proc), free_memory(tmp_path, proc)) == (300 << 20, 50 << 20)


@pytest.mark.parametrize("path", ["/docker/4f", "/../../x", "/"])
def test_group_that_is_not_there_leaves_the_root(tmp_path: Path, path: str) -> None:
    root = put(tmp_path / "a" / "b", **{"memory.max": f"{1 << 30}"})
    # Not to be reached by the way up.
    put(tmp_path / "x", **{"memory.max": f"{2 << 20}"})
    proc = put(tmp_path / "proc", meminfo="")
    put(proc / "self", cgroup=f"0::{path}\nnonsense")
    assert memory_limit(root, proc) == 1 << 30


def test_large_decode_leaves_an_eighth_to_small_ones() -> None:
    budget = MemoryBudget(8 * LARGE)
    with pytest.raises(InvalidInput, match=f"the limit is {7 * LARGE}"):
        budget.decoding(7 * LARGE + 1, 0.0).__enter__()
    with budget.decoding(7 * LARGE, 0.0), budget.decoding(LARGE, 0.0):
        assert budget.used == budget.limit


class Lender(Unlimited):
    """Lends of a budget, as calls do."""

    def __init__(self, limit: int) -> None:
        self.budget = MemoryBudget(limit)
        self.decoding = self.budget.decoding  # type: ignore[method-assign]


def test_reservation_takes_the_place_of_the_one_before_and_ends_with_its_block() -> None:
    lender = Lender(100)
    with Reservation(lender, math.inf, math.inf) as reserve:
        reserve(80)
        reserve(90)
        assert lender.budget.held("decode") == 90
        with pytest.raises(InvalidInput):
            reserve(101)
    assert lender.budget.used == 0


def test_reservation_of_large_work_waits_for_its_turn() -> None:
    with Reservation(UNLIMITED, math.inf, LARGE) as reserve:
        reserve(LARGE)
        with pytest.raises(LargeWork):
            reserve(LARGE + 1)


def test_reservation_for_nobody_is_refused() -> None:
    with (
        pytest.raises(DeadlineExpired, match="before its image was processed"),
        Reservation(UNLIMITED, time.monotonic() - 0.001, LARGE),
    ):
        pass

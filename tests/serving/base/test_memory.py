"""The budget of bytes, and the limit that it is derived from."""

import threading
import time
from pathlib import Path

import pytest

from serving.base.errors import DeadlineExpired, InvalidInput, QueueFull
from serving.base.machine.memory import memory_limit
from serving.base.memory import MemoryBudget


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


def test_decode_past_its_deadline_does_not_wait() -> None:
    budget = MemoryBudget(100)
    expired = pytest.raises(DeadlineExpired)
    with budget.decoding(80, 0.0), expired, budget.decoding(80, time.monotonic() - 1):
        pass
    assert budget.used == 0


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

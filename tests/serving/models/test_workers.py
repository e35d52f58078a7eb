"""Worker threads: callers in turn, a thread that large work leaves free, cancelled work."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any

import pytest

from serving.models.workers import RoundRobin, Workers

_SECONDS = 20


class Gate:
    """Work that waits on its thread until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(_SECONDS)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go.set()  # a test that fails leaves no thread behind


async def _begun(gate: Gate) -> None:
    async with asyncio.timeout(_SECONDS):
        while not gate.begun.is_set():
            await asyncio.sleep(0.001)


def _run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, _SECONDS))


def _all_of(line: RoundRobin[str]) -> list[str]:
    found = []
    while (one := line.pop()) is not None:
        found.append(one[1])
    return found


def test_callers_come_in_turn_and_each_in_its_order() -> None:
    line = RoundRobin[str]()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        line.push(item[0], item)
    assert _all_of(line) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_caller_who_comes_back_stands_behind_those_who_wait() -> None:
    line = RoundRobin[str]()
    line.push("a", "a1")
    line.push("b", "b1")
    assert line.pop() == ("a", "a1")
    line.push("a", "a2")
    assert [line.pop(), line.pop()] == [("b", "b1"), ("a", "a2")]


def test_items_that_nobody_wants_any_more_cost_their_caller_no_turn() -> None:
    line = RoundRobin[str](lambda item: item not in ("b1", "b2", "c1"))
    for item in ("a1", "a2", "b1", "b2", "b3", "c1"):
        line.push(item[0], item)
    assert _all_of(line) == ["a1", "b3", "a2"]


def test_an_item_that_is_first_is_so_of_its_caller_alone() -> None:
    line = RoundRobin[str]()
    for item in ("a1", "a2", "b1", "b2"):
        line.push(item[0], item)
    line.push("b", "b0", first=True)
    assert _all_of(line) == ["a1", "b0", "a2", "b1", "b2"]


def test_whoever_sends_much_goes_on_after_others(gate: Gate) -> None:
    done: list[str] = []

    async def main(workers: Workers) -> None:
        def note(name: str) -> Callable[[], None]:
            return lambda: done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(workers.run("flood", gate))
            await _begun(gate)
            for number in range(50):
                group.create_task(workers.run("flood", note(f"flood {number}")))
            await asyncio.sleep(0)
            group.create_task(workers.run("other", note("other")))
            await asyncio.sleep(0)
            gate.go.set()

    with Workers(1) as workers:
        _run(main(workers))
    assert len(done) == 51
    assert done.index("other") == 1


@pytest.mark.parametrize("callers", [("a", "a"), ("a", "b")])
def test_large_work_leaves_a_thread_to_the_rest(gate: Gate, callers: tuple[Hashable, ...]) -> None:
    async def main(workers: Workers) -> None:
        async with asyncio.TaskGroup() as group:
            begun: list[int] = []
            group.create_task(workers.run(callers[0], gate, large=True))
            await _begun(gate)
            second = group.create_task(workers.run(callers[1], lambda: begun.append(1), large=True))
            for number in range(5):
                assert await workers.run(callers[1], lambda number=number: number) == number  # type: ignore[misc]
            assert not begun
            gate.go.set()
            await second
            assert begun

    with Workers(2) as workers:
        _run(main(workers))


def test_large_work_comes_in_turn(gate: Gate) -> None:
    done: list[str] = []

    async def main(workers: Workers) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(workers.run("flood", gate, large=True))
            await _begun(gate)
            for caller in ("flood", "flood", "flood", "other"):
                work = workers.run(caller, lambda caller=caller: done.append(caller), large=True)  # type: ignore[misc]
                group.create_task(work)
                await asyncio.sleep(0)
            gate.go.set()

    with Workers(1) as workers:
        _run(main(workers))
    assert done == ["flood", "other", "flood", "flood"]


def test_a_large_piece_keeps_its_place_for_no_line_of_small_ones(gate: Gate) -> None:
    done: list[str] = []

    async def main(workers: Workers) -> None:
        async with asyncio.TaskGroup() as group:

            def begin(caller: str, name: str, *, large: bool = False) -> None:
                group.create_task(workers.run(caller, lambda: done.append(name), large=large))

            group.create_task(workers.run("flood", gate))
            await _begun(gate)
            for _ in range(50):
                begin("flood", "small")
            begin("flood", "large", large=True)
            begin("other", "large of another", large=True)
            await asyncio.sleep(0)
            gate.go.set()

    with Workers(1) as workers:
        _run(main(workers))
    assert done[:3] == ["large", "small", "large of another"]
    assert len(done) == 52


@pytest.mark.parametrize("large", [False, True])
def test_cancelled_work_keeps_no_image_while_others_have_their_turns(
    gate: Gate, large: bool
) -> None:
    class Image:
        pass

    async def main(workers: Workers) -> None:
        first = asyncio.create_task(workers.run("a", gate, large=large))
        await _begun(gate)
        image = Image()
        known = weakref.ref(image)
        second = asyncio.create_task(workers.run("a", lambda image=image: None, large=large))  # type: ignore[misc]
        del image
        await asyncio.sleep(0)
        second.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await second
        del second
        await asyncio.sleep(0)
        gc.collect()
        assert known() is None
        gate.go.set()
        await first

    with Workers(1) as workers:
        _run(main(workers))


@pytest.mark.parametrize("large", [False, True])
def test_cancelled_work_does_not_begin_and_holds_up_nobody(gate: Gate, large: bool) -> None:
    async def main(workers: Workers) -> None:
        first = asyncio.create_task(workers.run("a", gate, large=large))
        await _begun(gate)
        second = asyncio.create_task(workers.run("a", lambda: pytest.fail("it began"), large=large))
        await asyncio.sleep(0)
        second.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await second
        gate.go.set()
        await first
        assert await workers.run("a", lambda: 3, large=large) == 3

    with Workers(1) as workers:
        _run(main(workers))


def test_large_work_that_is_cancelled_while_it_runs_keeps_its_place(gate: Gate) -> None:
    async def main(workers: Workers) -> None:
        begun: list[int] = []
        first = asyncio.create_task(workers.run("a", gate, large=True))
        await _begun(gate)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        second = asyncio.create_task(workers.run("a", lambda: begun.append(1), large=True))
        await workers.run("a", lambda: None)
        assert not begun
        gate.go.set()
        await second

    with Workers(2) as workers:
        _run(main(workers))


def test_an_error_goes_to_whoever_waits_and_the_thread_goes_on() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def main(workers: Workers) -> None:
        with pytest.raises(ValueError, match="no"):
            await workers.run("a", fail)
        assert await workers.run("a", lambda: 3) == 3

    with Workers(1) as workers:
        _run(main(workers))


def test_an_error_that_no_future_takes_is_told_as_another() -> None:
    def fail() -> None:
        raise StopIteration

    async def main(workers: Workers) -> None:
        with pytest.raises((TypeError, RuntimeError), match="StopIteration"):
            await workers.run("a", fail)

    with Workers(1) as workers:
        _run(main(workers))


def test_threads_that_could_not_start_are_started_for_the_next_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main(workers: Workers) -> None:
        monkeypatch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="new thread"):
            await workers.run("a", lambda: pytest.fail("it began"))
        monkeypatch.setattr(threading.Thread, "start", start)
        assert await workers.run("a", lambda: 3) == 3

    with Workers(2) as workers:
        _run(main(workers))


def test_an_error_leaves_nothing_that_only_a_collection_frees() -> None:
    class Image:
        pass

    known: list[weakref.ref[Image]] = []

    def fail() -> None:
        image = Image()
        known.append(weakref.ref(image))
        raise ValueError("no")

    async def main(workers: Workers) -> None:
        with contextlib.suppress(ValueError):
            await workers.run("a", fail)
        async with asyncio.timeout(_SECONDS):
            while known[0]() is not None:  # the thread may be a step behind
                await asyncio.sleep(0.001)

    gc.disable()
    try:
        with Workers(1) as workers:
            _run(main(workers))
    finally:
        gc.enable()


def test_threads_keep_nothing_of_their_last_work() -> None:
    class Image:
        pass

    async def main(workers: Workers) -> None:
        image = Image()
        known = weakref.ref(image)
        await workers.run("a", lambda image=image: None)  # type: ignore[misc]
        del image
        async with asyncio.timeout(_SECONDS):
            while known() is not None:  # the thread may be a step behind
                gc.collect()
                await asyncio.sleep(0.001)

    with Workers(1) as workers:
        _run(main(workers))


def test_work_that_is_under_way_ends_before_it_closes(gate: Gate) -> None:
    async def main(workers: Workers) -> None:
        first = asyncio.create_task(workers.run("a", gate))
        await _begun(gate)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        gate.go.set()
        await asyncio.gather(first, closing)

    _run(main(Workers(1)))


@pytest.mark.parametrize("large", [False, True])
def test_work_that_waits_when_it_closes_does_not_begin(gate: Gate, large: bool) -> None:
    async def main(workers: Workers) -> None:
        first = asyncio.create_task(workers.run("a", gate))
        await _begun(gate)
        waiting = [
            asyncio.create_task(workers.run("a", lambda: pytest.fail("it began"), large=large))
            for _ in range(20)
        ]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        await asyncio.sleep(0.05)
        gate.go.set()
        await asyncio.gather(first, closing)
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()

    _run(main(Workers(1)))

"""An engine, a pool or a turn that fails harms its own batch and nothing else."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import pytest

from serving.base.errors import EngineError
from serving.batching.core_turns import CoreShare, Turn
from serving.batching.ticket import State
from tests.serving.batching.fake_engine import answered
from tests.serving.batching.house import CORES, Bomb, House


@pytest.mark.parametrize(
    "failure",
    [
        StopIteration(),
        GeneratorExit(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        asyncio.InvalidStateError(),
        MemoryError(),
    ],
    ids=lambda failure: f"{type(failure).__module__}.{type(failure).__name__}",
)
@pytest.mark.parametrize("name", ["inline", "threaded"])
def test_whatever_an_engine_raises_fails_its_batch_and_nothing_else(
    name: str,
    failure: BaseException,
    house: Callable[[], House],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    built = house()

    def infer(inputs: Any) -> Any:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(built.engines[name], "infer", infer)
        for _ in range(2):
            built.submit(name, built.admit(name))
        built.advance()
        built.advance(0.03)
        built.work()
    for _, task, _ in built.calls:
        assert task.done()
        assert not task.cancelled()
        assert isinstance(task.exception(), Exception)
    built.check_still_serves()


def test_process_can_be_interrupted_while_an_inline_batch_runs(
    house: Callable[[], House], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()

    def infer(inputs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(built.engines["inline"], "infer", infer)
        built.submit("inline", built.admit("inline"))
        built.advance()
        with pytest.raises(KeyboardInterrupt):
            built.advance(0.03)
    built.advance()
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), EngineError)
    built.check_still_serves()


def test_work_that_the_pool_drops_fails(
    house: Callable[[], House], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()
    built.submit("threaded", built.admit("threaded"))
    built.advance()
    built.advance(0.03)
    [(future, _)] = built.threads.work
    built.threads.work.clear()
    assert future.cancel()
    built.advance()
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), EngineError)
    built.check_still_serves()


def test_model_whose_turn_cannot_start_hits_no_other_and_keeps_no_cores(
    house: Callable[[], House], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()
    lost: list[BaseException] = []

    def start(turn: Turn) -> None:
        raise Bomb

    other = CoreShare()
    for cores in (0, 1, CORES):
        turn = Turn(other, cores, 0.01, start, lambda turn, error: lost.append(error))
        built.loop.call(lambda turn=turn: built.turns.ask(turn, built.loop.now))
        built.turns.give_back(turn, built.loop.now)
        assert built.turns.free == CORES
    # It waits for the batch of another model, which then gives its cores back.
    built.submit("threaded", built.admit("threaded"))
    built.advance()
    built.advance(0.03)
    built.loop.call(lambda: built.turns.ask(Turn(other, 1, 0.01, start), built.loop.now))
    built.submit("inline", built.admit("inline"))
    built.advance(0.03)
    built.work()
    built.check_nothing_lost()
    assert [type(error) for error in lost] == [Bomb] * 3
    built.check_still_serves()


def test_call_that_cannot_be_queued_gives_its_place_back(house: Callable[[], House]) -> None:
    built = house()
    batcher = built.batchers["threaded"]
    ticket = built.admit("threaded")
    task = built.loop.create_task(answered(batcher, ticket, []))
    built.loop.rounds(3)
    assert isinstance(task.exception(), IndexError)
    assert ticket.state is State.WITHDRAWN
    assert batcher._waiting.idle.is_set()

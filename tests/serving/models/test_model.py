"""One network behind its batcher: what a call is checked for, and what is counted of it."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.base.errors import DeadlineExpired, EngineError, InvalidInput, WrongTask
from serving.base.memory import LARGE, UNLIMITED, Unlimited
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.config_completion import read_config
from serving.models.loading.version import load_model
from serving.models.model import Model
from serving.models.servable import CallOptions, EncodedImage, Reserve, Servable
from serving.repository.layout import scan_model
from tests.serving.models.conftest import FakeEngines, write_model

OPTIONS = CallOptions()
Work = Callable[[Model], Awaitable[None]]


@pytest.fixture
def metrics() -> FrontMetrics:
    return FrontMetrics()


@pytest.fixture
def drive(
    tmp_path: Path, decoders: ThreadPoolExecutor, engines: FakeEngines, metrics: FrontMetrics
) -> Callable[[Work], None]:
    """Runs a coroutine of a loaded model."""
    folder = write_model(tmp_path)

    def run(work: Work) -> None:
        async def main() -> None:
            settings = LoadSettings(engine="onnxruntime", allow_ungated=True, threads=1)
            config = read_config(scan_model(folder))
            turns = CoreTurns(1)
            loaded = load_model(folder, config, 1, settings, EngineMetrics(), turns)
            try:
                await work(Model(loaded.facts, loaded.port, decoders, metrics))
            finally:
                await loaded.retire(5)

        asyncio.run(main())
        assert engines.closed == engines.loaded

    return run


def test_it_is_a_servable_with_its_facts(drive: Callable[[Work], None]) -> None:
    async def work(model: Model) -> None:
        served: Servable = model
        facts = served.facts
        assert (facts.name, facts.version, facts.variant) == ("doubles", "1", "default")
        assert facts.engine_name == "onnxruntime"
        assert (facts.task, facts.transform, facts.evidence) == (None, None, None)
        assert (facts.labels, facts.labels_of("y")) == ((), ())
        assert (facts.max_rows, facts.batches, facts.takes_text) == (4, True, False)
        assert dict(facts.output_types) == {"y": "FP32"}

    drive(work)


def test_images_need_a_manifest(drive: Callable[[Work], None]) -> None:
    async def work(model: Model) -> None:
        with pytest.raises(WrongTask, match="takes tensors only"):
            await model.infer_images([EncodedImage(b"")], OPTIONS)

    drive(work)


def test_a_failed_batch_fails_its_call_and_the_next_is_answered(
    drive: Callable[[Work], None], engines: FakeEngines, metrics: FrontMetrics
) -> None:
    async def work(model: Model) -> None:
        x = {"x": np.ones((2, 2), np.float32)}
        engines.loaded[0].failure = EngineError("no kernel\nwith a trace")
        with pytest.raises(EngineError, match="no kernel with a trace"):
            await model.infer(x, 2, OPTIONS)
        engines.loaded[0].failure = None
        answer = await model.infer(x, 2, OPTIONS)
        assert answer.outputs["y"].tolist() == [[2, 2], [2, 2]]
        model.times.ended("ModelInfer", "OK", 0.5)
        model.times.ended("ModelInfer", "INTERNAL", 0.25)
        counters = metrics.counters("doubles", "1")
        assert (counters.success.count, counters.fail.ns) == (1, 250_000_000)
        assert (await model.recent_batches())[-1].rows == 2
        assert model.stuck_for() == 0

    drive(work)


class Turns(Unlimited):
    """Counts the turns of large work."""

    def __init__(self) -> None:
        self.taken = self.given_back = 0

    @property
    def large(self) -> "Turns":  # type: ignore[override]
        return self

    async def acquire(self) -> None:
        self.taken += 1

    def release(self) -> None:
        self.given_back += 1


def test_large_work_begins_anew_when_it_has_its_turn(drive: Callable[[Work], None]) -> None:
    begun: list[int] = []
    turns = Turns()

    def work_of(size: int) -> Callable[[Reserve], int]:
        def work(reserve: Reserve) -> int:
            begun.append(size)
            reserve(size)
            return size

        return work

    async def work(model: Model) -> None:
        for size in (LARGE, LARGE + 1):
            assert await model.run_aside(work_of(size), turns, math.inf) == size
        assert begun == [LARGE, LARGE + 1, LARGE + 1]
        assert (turns.taken, turns.given_back) == (1, 1)

    drive(work)


def test_cancelled_large_work_keeps_its_turn_until_its_thread_ends(
    drive: Callable[[Work], None],
) -> None:
    turns = Turns()
    begun, end = asyncio.Event(), threading.Event()

    async def work(model: Model) -> None:
        loop = asyncio.get_running_loop()

        def large(reserve: Reserve) -> None:
            reserve(LARGE + 1)
            loop.call_soon_threadsafe(begun.set)
            end.wait(20)

        call = asyncio.create_task(model.run_aside(large, turns, math.inf))
        await asyncio.wait_for(begun.wait(), 20)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        assert (turns.taken, turns.given_back) == (1, 0)
        end.set()
        async with asyncio.timeout(20):
            while not turns.given_back:
                await asyncio.sleep(0.01)

    drive(work)


def test_cancelled_large_work_that_has_not_begun_gives_its_turn_back(
    drive: Callable[[Work], None], decoders: ThreadPoolExecutor
) -> None:
    turns = Turns()
    end = threading.Event()

    async def work(model: Model) -> None:
        def large(reserve: Reserve) -> None:
            # The other threads are busy from here on.
            busy.extend(decoders.submit(end.wait, 20) for _ in range(32))
            reserve(LARGE + 1)

        busy: list[object] = []
        call = asyncio.create_task(model.run_aside(large, turns, math.inf))
        async with asyncio.timeout(20):
            while not turns.taken:
                await asyncio.sleep(0.01)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            while not turns.given_back:
                await asyncio.sleep(0.01)
        end.set()

    drive(work)


def test_work_that_nobody_waits_for_is_not_begun(drive: Callable[[Work], None]) -> None:
    async def work(model: Model) -> None:
        with pytest.raises(DeadlineExpired):
            await model.run_aside(lambda _: pytest.fail("it began"), UNLIMITED, time.monotonic())

    drive(work)


def test_work_is_done_aside_and_its_error_comes_back(drive: Callable[[Work], None]) -> None:
    def fail(_: Reserve) -> None:
        raise InvalidInput("not an image")

    async def work(model: Model) -> None:
        assert await model.run_aside(lambda _: 3, UNLIMITED, math.inf) == 3
        with pytest.raises(InvalidInput, match="not an image") as raised:
            await model.run_aside(fail, UNLIMITED, math.inf)
        # The frames of the thread would keep what they hold: images.
        assert "fail" not in [entry.name for entry in raised.traceback]

    drive(work)

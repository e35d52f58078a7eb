"""One network behind its batcher: what a call is checked for, and what is counted of it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from serving.base.errors import DeadlineExpired, EngineError, InvalidInput, WrongTask
from serving.base.memory import LARGE, UNLIMITED
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.config_completion import read_config
from serving.models.loading.version import load_model
from serving.models.model import Model
from serving.models.servable import CallOptions, EncodedImage, Reserve, Servable
from serving.models.workers import Workers
from serving.repository.layout import scan_model
from tests.serving.models.conftest import FakeEngines, write_model

OPTIONS = CallOptions()
Work = Callable[[Model], Awaitable[None]]


@pytest.fixture
def metrics() -> FrontMetrics:
    return FrontMetrics()


@pytest.fixture
def drive(
    tmp_path: Path, workers: Workers, engines: FakeEngines, metrics: FrontMetrics
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
                await work(Model(loaded.facts, loaded.port, workers, metrics))
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


def test_large_work_begins_anew_when_it_has_its_turn(drive: Callable[[Work], None]) -> None:
    begun: list[int] = []

    def work_of(size: int) -> Callable[[Reserve], int]:
        def work(reserve: Reserve) -> int:
            begun.append(size)
            reserve(size)
            return size

        return work

    async def work(model: Model) -> None:
        for size in (LARGE, LARGE + 1):
            assert await model.run_aside(work_of(size), UNLIMITED, math.inf) == size
        assert begun == [LARGE, LARGE + 1, LARGE + 1]

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

"""A front and a real engine process: nothing accepted is lost, whatever happens to the process."""

import asyncio
import logging
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format

from protos.gen import model_config_pb2
from serving.base.errors import (
    DeadlineExpired,
    EngineError,
    EngineRestarts,
    InvalidInput,
    ModelNotReady,
    ServingError,
)
from serving.models.servable import AnsweredImage, CallOptions, EncodedImage
from tests.support.apart import apart, check_kills, expected_logits
from tests.support.pictures import encoded
from tests.support.poisoned import POISON
from tests.support.published import publish

POISONED = "tests.support.poisoned"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `colours` alone, which is soon loaded."""
    repository = tmp_path_factory.mktemp("alone")
    publish(repository)
    return repository


def colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(70, 256, 3)


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_no_call_is_lost_or_answered_wrongly_where_the_engine_process_is_killed(
    times: int, alone: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.remote.front.supervisor._MOST_ENDS", 10 * times)

    async def run() -> None:
        async with apart(alone, cache) as front:
            await check_kills(front, times)

    asyncio.run(run())


def test_the_log_says_that_a_model_is_ready_when_the_front_serves_it(
    alone: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[bool] = []

    async def run() -> None:
        async with apart(alone, cache) as front:

            def look(record: logging.LogRecord) -> bool:
                if record.getMessage() == "model ready":
                    served.append(front.catalogue.ready(strict=True))
                return True

            monkeypatch.setattr(caplog.handler, "filter", look)
            await front.ready()
            await front.until(lambda: bool(served))

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert served == [True]


def test_an_image_that_kills_ends_its_own_call_alone(alone: Path, cache: Path) -> None:
    async def run() -> None:
        async with apart(alone, cache, module=POISONED) as front:
            await front.ready()
            rng = np.random.default_rng(1)
            others = [colour(rng) for _ in range(30)]
            calls = [front.logits(asked) for asked in others]
            calls.insert(15, front.logits(np.array(POISON)))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            failure = answers.pop(15)
            assert isinstance(failure, EngineError)
            assert "SHA-256" in str(failure)
            np.testing.assert_allclose(answers, [expected_logits(c) for c in others], rtol=1e-4)
            ends = front.metrics.engine_ends.labels("crash").value
            assert ends == 2

    asyncio.run(run())


def test_late_answers_of_a_stopped_process_reach_no_other_call(alone: Path, cache: Path) -> None:
    async def run() -> None:
        async with apart(alone, cache) as front:
            await front.ready()
            rng = np.random.default_rng(2)
            os.kill(front.pid, signal.SIGSTOP)
            soon = time.monotonic() + 0.3
            late = [front.logits(colour(rng), deadline=soon) for _ in range(20)]
            failures = await asyncio.gather(*late, return_exceptions=True)
            assert {type(failure) for failure in failures} == {DeadlineExpired}
            assert front.lent() == 20  # it may still write there
            others = [colour(rng) for _ in range(40)]
            waiting = asyncio.gather(*(front.logits(asked) for asked in others))
            await asyncio.sleep(0)
            assert front.lent() == 60
            os.kill(front.pid, signal.SIGCONT)
            answers = await waiting
            np.testing.assert_allclose(answers, [expected_logits(c) for c in others], rtol=1e-4)
            await front.until(lambda: not front.lent())
            assert front.metrics.stale_answers.children() == []
            assert front.metrics.engine_ends.children() == []

    asyncio.run(run())


def test_a_process_that_hangs_is_ended_and_its_calls_are_answered_by_the_next(
    alone: Path, cache: Path
) -> None:
    async def run() -> None:
        async with apart(alone, cache, hung_seconds=2) as front:
            await front.ready()
            asked, hanging = np.array([200, 100, 70]), front.pid
            os.kill(hanging, signal.SIGSTOP)
            answer = await front.logits(asked)
            np.testing.assert_allclose(answer, expected_logits(asked), rtol=1e-4)
            assert front.pid != hanging
            assert front.metrics.engine_ends.labels("hung").value == 1

    asyncio.run(run())


def test_a_process_that_never_starts_leaves_the_server_not_ready_and_says_why(
    alone: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.remote.front.supervisor._MOST_ENDS", 2)

    async def run() -> None:
        async with apart(alone, cache, module="json") as front:
            await front.until(lambda: front.supervisor.state == "FAILED")
            assert not front.supervisor.ready()
            assert "it ended with status 1" in front.supervisor.lines()[1]

    asyncio.run(run())


def test_a_call_without_time_for_the_next_process_is_told_when_to_come_again(
    alone: Path, cache: Path
) -> None:
    async def run() -> None:
        async with apart(alone, cache) as front:
            await front.ready()
            await front.kill()
            await front.until(lambda: not front.supervisor.ready())
            with pytest.raises(EngineRestarts) as refused:
                await front.logits(np.array([70, 80, 90]), deadline=time.monotonic() + 0.05)
            assert refused.value.retry_after > 0
            await front.ready()
            answer = await front.logits(np.array([70, 80, 90]))
            np.testing.assert_allclose(answer, expected_logits(np.array([70, 80, 90])), rtol=1e-4)

    asyncio.run(run())


def test_counters_do_not_fall_and_calls_that_changed_the_server_outlive_a_process(
    tmp_path: Path, cache: Path
) -> None:
    publish(tmp_path)
    publish(tmp_path, "other")

    async def run() -> None:
        async with apart(tmp_path, cache) as front:
            await front.ready()
            await front.supervisor.loader.unload("other")
            config = text_format.Parse(
                (tmp_path / "colours" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
            )
            config.max_batch_size = 2
            override = {"config": json_format.MessageToJson(config)}
            await front.supervisor.loader.load("colours", override)
            await front.logits(np.array([70, 80, 90]))
            await front.totals.refresh()
            before = front.totals.now()[1].counters("colours", "1").inferences.value
            assert before == 1
            await front.kill()
            await front.until(lambda: not front.supervisor.ready())
            assert front.totals.now()[1].counters("colours", "1").inferences.value == before
            await front.until(lambda: front.supervisor.ready() and front.catalogue.ready(False))
            assert front.catalogue.get("colours").facts.max_rows == 2
            with pytest.raises(ModelNotReady):
                front.catalogue.get("other")
            await front.logits(np.array([70, 80, 90]))
            await front.totals.refresh()
            assert front.totals.now()[1].counters("colours", "1").inferences.value == before + 1

    asyncio.run(run())


def test_images_are_decoded_by_the_front_and_refused_before_that(alone: Path, cache: Path) -> None:
    async def run() -> None:
        async with apart(alone, cache) as front:
            await front.ready()
            model = front.catalogue.get("colours")
            picture = EncodedImage(encoded(np.full((8, 8, 3), 90, np.uint8), "PNG"))
            broken = EncodedImage(b"no image")
            answer = await model.infer_images([broken, picture], CallOptions())
            np.testing.assert_allclose(answer.outputs["logits"], [[90 / 25.5] * 3], rtol=1e-4)
            refused, answered = answer.images
            assert isinstance(refused, InvalidInput)
            assert isinstance(answered, AnsweredImage)
            assert answered.timing.batch_size == 1
            with pytest.raises(ServingError, match="cannot be met"):
                await model.infer_images([broken], CallOptions(deadline=time.monotonic() + 1e-6))
            await front.until(lambda: not front.lent())
            [batch] = await model.recent_batches()
            assert (batch.rows, batch.limited_by, batch.failed) == (1, "empty", False)
            assert 0 < batch.infer <= batch.took
            assert math.isfinite(answered.timing.queue)

    asyncio.run(run())

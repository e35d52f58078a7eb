"""Two real engine processes behind one front: the death of one costs no call anything."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format

from protos.gen import model_config_pb2
from serving.base.errors import EngineError, ModelNotFound, ModelNotReady
from serving.models.loading.candidates import LoadSettings, is_placed_here
from serving.repository.model_config import from_proto
from tests.support.apart import Front, check_kills, expected_logits, kill, pid_of, several
from tests.support.poisoned import POISON
from tests.support.published import publish


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `colours` alone, which is soon loaded."""
    repository = tmp_path_factory.mktemp("alone")
    publish(repository)
    return repository


@pytest.mark.parametrize("times", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_no_call_is_lost_or_answered_wrongly_where_one_of_two_is_killed(
    times: int, alone: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.remote.front.supervisor._MOST_ENDS", 10 * times)

    async def run() -> None:
        async with several(alone, cache) as front:
            await check_kills(front, times)

    asyncio.run(run())


def test_answers_go_on_while_one_of_two_is_dead_and_counters_do_not_fall(
    alone: Path, cache: Path
) -> None:
    async def run() -> None:
        async with several(alone, cache) as front:
            await front.whole()
            rng = np.random.default_rng(3)

            async def all_right(calls: int) -> None:
                asked = [rng.integers(70, 256, 3) for _ in range(calls)]
                answers = await asyncio.gather(*(front.logits(colour) for colour in asked))
                np.testing.assert_allclose(answers, list(map(expected_logits, asked)), rtol=1e-4)

            async def counted() -> float:
                await front.totals.refresh()
                return front.totals.now()[1].counters("colours", "1").inferences.value

            await all_right(40)
            assert await counted() == 40
            engine = front.totals.now()[1]
            # Of a version, not of each process.
            assert engine.model_ready.labels("colours", "1").value == 1
            [(_, accuracy)] = engine.model_accuracy.children()
            assert accuracy.value == 0.99
            first, second = front.engines
            both = {pid_of(first), pid_of(second)}
            assert all(sum(f"pid {pid}," in line for pid in both) for line in first_lines(front))
            pids = pid_of(first)
            await kill(front, first)
            await all_right(40)
            assert not first.ready()
            assert front.processes.ready()
            assert await counted() >= 40 + 40
            assert first.line().startswith("process engine 0: pid ")
            assert "RESTARTING" in first.line()
            await front.whole()
            assert pid_of(first) != pids
            await all_right(40)
            assert await counted() == 120
            batches = await front.catalogue.get("colours").recent_batches()
            assert sum(batch.rows for batch in batches) <= 120

    asyncio.run(run())


def first_lines(front: Front) -> list[str]:
    _, *engines = front.processes.lines()
    assert [line.split(":")[0] for line in engines] == ["process engine 0", "process engine 1"]
    return engines


@pytest.mark.slow  # as in test_spread, with real processes
def test_an_image_that_kills_ends_its_own_call_alone_in_whichever_it_runs(
    alone: Path, cache: Path
) -> None:
    async def run() -> None:
        async with several(alone, cache, module="tests.support.poisoned") as front:
            await front.whole()
            rng = np.random.default_rng(1)
            others = [rng.integers(70, 256, 3) for _ in range(30)]
            calls = [front.logits(asked) for asked in others]
            calls.insert(15, front.logits(np.array(POISON)))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            failure = answers.pop(15)
            assert isinstance(failure, EngineError)
            assert "SHA-256" in str(failure)
            np.testing.assert_allclose(answers, [expected_logits(c) for c in others], rtol=1e-4)
            assert front.metrics.engine_ends.labels("crash").value == 2

    asyncio.run(run())


@pytest.mark.parametrize("rows", [8, pytest.param(2, marks=pytest.mark.slow)])  # as published: 8
def test_loads_and_unloads_are_done_by_both_and_outlive_one(
    rows: int, tmp_path: Path, cache: Path
) -> None:
    publish(tmp_path)
    publish(tmp_path, "other")
    proto = text_format.Parse(
        (tmp_path / "colours" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    proto.max_batch_size = rows

    async def run() -> None:
        async with several(tmp_path, cache) as front:
            await front.whole()
            loader = front.processes.loader
            await loader.unload("other")
            if rows != 8:
                await loader.load("colours", {"config": json_format.MessageToJson(proto)})
            with pytest.raises(ModelNotFound):
                await loader.load("nobody")
            for engine in front.engines:
                assert engine.catalogue.get("colours").facts.max_rows == rows
            for engine in front.engines:
                await kill(front, engine)
                assert front.catalogue.get("colours").facts.max_rows == rows
                await front.logits(np.array([70, 80, 90]))
                await front.until(
                    lambda engine=engine: engine.ready() and engine.catalogue.ready(False)
                )
                with pytest.raises(ModelNotReady):
                    front.catalogue.get("other")
            spread = front.catalogue._spread["colours", 1]  # type: ignore[attr-defined]
            await front.until(lambda: [port.live for port in spread.ports] == [True, True])

    asyncio.run(run())


def test_one_that_can_never_start_leaves_the_server_ready_and_says_why(
    alone: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.remote.front.supervisor._MOST_ENDS", 2)

    async def run() -> None:
        async with several(alone, cache) as front:
            front.engines[1]._module = "json"
            await front.until(lambda: front.engines[1].state == "FAILED")
            assert front.processes.ready()
            assert "it ended with status 1" in front.processes.lines()[2]
            assert front.catalogue.ready(strict=True)
            await front.logits(np.array([70, 80, 90]))
            await front.processes.loader.load("colours")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("named", "gpus", "here"),
    [("", (1,), True), ("gpus: [0]", (0,), True), ("gpus: [0]", (1,), False),
     ("gpus: [0, 1]", (1,), True), ("gpus: [7]", (1,), True), ("gpus: [7]", None, True)],
)  # fmt: skip
def test_a_model_is_placed_where_its_config_says_and_a_wrong_one_is_refused_by_its_load(
    named: str, gpus: tuple[int, ...] | None, here: bool
) -> None:
    text = f'platform: "fake" instance_group {{ kind: KIND_GPU {named} }}'
    config = from_proto(
        text_format.Parse(text, model_config_pb2.ModelConfig()), Path("a/config.pbtxt")
    )
    assert is_placed_here(config, LoadSettings(gpus=gpus, gpu_count=2)) is here

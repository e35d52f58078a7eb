"""What callers see of a model that two engine processes serve."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from protos.gen import model_config_pb2
from serving.base.errors import ModelNotReady
from serving.base.metrics import FrontMetrics
from serving.base.tensor import TensorSpec
from serving.models.catalogue import ELSEWHERE, WAITING
from serving.models.facts import ModelFacts
from serving.models.workers import Workers
from serving.remote.front.calls import Calls
from serving.remote.front.merged import MergedCatalogue
from serving.remote.front.mirror import Mirror
from serving.remote.front.port import RemotePort
from serving.remote.slots import Slots
from serving.repository.model_config import from_proto
from serving.repository.places.repositories import Repositories

CONFIG = from_proto(
    text_format.Parse('max_batch_size: 8 platform: "fake"', model_config_pb2.ModelConfig()),
    Path("doubles/config.pbtxt"),
)
X, Y = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))
OLD = ModelFacts(CONFIG, "1", "fake", "fp32", None, (X,), (Y,), files="old")
NEW = replace(OLD, files="new")


class Front:
    """A catalogue of two engine processes, which tell what a test has them tell."""

    def __init__(self, workers: Workers) -> None:
        names = ["engine 0", "engine 1"]
        self.catalogue = MergedCatalogue(Repositories.of("models"), workers, FrontMetrics(), names)
        slots = Slots(1 << 26)
        self.calls = [Calls(slots, FrontMetrics(), lambda: 0.5) for _ in range(2)]
        self.mirrors = [
            Mirror(part, calls, _none)
            for part, calls in zip(self.catalogue.parts, self.calls, strict=True)
        ]
        self._last = 0
        for calls in self.calls:
            calls.down = ""  # as if a process were connected

    def tell(
        self,
        engine: int,
        facts: ModelFacts | None = None,
        state: str = "READY",
        reason: str = "",
        problem: str = "",
    ) -> None:
        """What it says of version 1; without facts it does not serve it."""
        told: dict[str, Any] = {"facts": {}, "entries": {}}
        number = 0
        if facts is not None:
            self._last = number = self._last + 1
            told["facts"] = {str(number): facts.to_json().decode()}
        held = {"state": state, "reason": reason, "number": number}
        told["entries"]["doubles"] = {
            "state": "UNAVAILABLE", "problem": problem, "is_model": True, "versions": {"1": held},
        }  # fmt: skip
        if problem:
            told["entries"]["doubles"]["versions"] = {}
        self.mirrors[engine].told(told)

    def die(self, engine: int) -> None:
        self.mirrors[engine].lost()

    def line(self) -> tuple[str, str]:
        """State and reason in the index."""
        [line] = self.catalogue.index()
        return line.state.value, line.reason

    def used(self) -> list[int]:
        """The engine processes that get calls."""
        return [self.calls.index(port.calls) for port in self.catalogue._spread["doubles", 1].ports]


async def _none(_: RemotePort) -> list:  # type: ignore[type-arg]
    return []


def looked_at(look: Callable[[Front], None]) -> None:
    async def run() -> None:
        with Workers(1) as workers:
            look(Front(workers))

    asyncio.run(run())


def test_a_version_serves_as_soon_as_one_has_it_and_while_one_has_it() -> None:
    def look(front: Front) -> None:
        front.tell(0, problem=WAITING)
        assert front.line() == ("UNAVAILABLE", WAITING)
        front.tell(0, state="LOADING")
        assert front.line() == ("LOADING", "")
        front.tell(0, OLD)
        assert (front.line(), front.used()) == (("READY", ""), [0])
        front.tell(1, state="LOADING")
        assert (front.line(), front.used()) == (("READY", ""), [0])
        front.tell(1, OLD)
        assert (front.line(), front.used()) == (("READY", ""), [0, 1])
        front.die(0)
        assert front.line() == ("READY", "")
        front.die(1)
        assert front.line()[0] == "LOADING"
        assert front.catalogue.get("doubles").facts == OLD  # its calls wait
        front.tell(1, OLD)
        assert front.line() == ("READY", "")
        for engine in range(2):
            front.tell(engine, problem="unloaded")
        assert front.line() == ("UNAVAILABLE", "unloaded")
        with pytest.raises(ModelNotReady):
            front.catalogue.get("doubles")

    looked_at(look)


def test_no_call_goes_to_old_files_once_one_has_newer_ones() -> None:
    def look(front: Front) -> None:
        front.tell(0, OLD)
        front.tell(1, OLD)
        front.tell(1, NEW)
        assert front.used() == [1]
        assert front.catalogue.get("doubles").facts.files == "new"
        front.tell(0, NEW)
        assert front.used() == [0, 1]
        # The same files in another form, such as a plan that one has built, answer alike.
        front.tell(0, replace(NEW, engine_name="faster"))
        assert front.used() == [0, 1]
        # Each answer tells the engine that it is from.
        assert front.catalogue.get("doubles").facts.engine_name == "faster"
        [first, _] = front.catalogue._spread["doubles", 1].ports
        first.open_rows = 1
        assert front.catalogue.get("doubles").facts.engine_name == "fake"
        first.open_rows = 0
        # Those that are there count, where the others are dead.
        front.tell(1, replace(NEW, files="newest"))
        assert front.used() == [1]
        front.die(1)
        front.calls[1].down = "it is dead"
        assert front.used() == [0]

    looked_at(look)


def test_a_version_that_takes_other_tensors_leaves_no_call_to_the_former_one() -> None:
    def look(front: Front) -> None:
        front.tell(0, OLD)
        front.tell(1, OLD)
        old: Any = front.catalogue.get("doubles")._port  # type: ignore[attr-defined]
        wider = replace(NEW, inputs=(TensorSpec("x", "FP32", (-1, 3)),))
        front.tell(0, wider)
        assert front.used() == [0]
        with pytest.raises(ModelNotReady, match="unloaded"):
            old.admit(1, 0, 1e9)

    looked_at(look)


def test_a_load_that_fails_in_one_is_told_with_its_name() -> None:
    def look(front: Front) -> None:
        front.tell(0, OLD)
        front.tell(1, state="UNAVAILABLE", reason="no memory")
        assert front.line() == ("READY", "engine 1: no memory")
        assert front.used() == [0]
        # Whether the other one is started again or not, it is not there.
        front.die(1)
        front.tell(0, state="UNAVAILABLE", reason="no memory")
        assert front.line() == ("UNAVAILABLE", "no memory")
        front.tell(1, state="UNAVAILABLE", reason="no memory")
        assert front.line() == ("UNAVAILABLE", "no memory")

    looked_at(look)


def test_a_model_on_the_gpus_of_one_is_that_ones() -> None:
    def look(front: Front) -> None:
        front.tell(0, problem=ELSEWHERE)
        front.tell(1, OLD)
        assert (front.line(), front.used()) == (("READY", ""), [1])
        assert front.catalogue.ready(strict=True)
        front.mirrors[0].told({"facts": {}, "entries": {"doubles": None}})
        front.mirrors[1].told({"facts": {}, "entries": {"doubles": None}})
        assert front.catalogue.index() == []

    looked_at(look)

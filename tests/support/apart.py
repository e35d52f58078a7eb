"""A front without ports over real engine processes, one or several."""

import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.base.counting.totals import Totals
from serving.base.errors import ServingError
from serving.base.metrics import FrontMetrics
from serving.models.catalogue import Catalogue
from serving.models.servable import CallOptions
from serving.models.workers import Workers
from serving.remote.front.engines import Engines
from serving.remote.front.merged import MergedCatalogue
from serving.remote.front.seats import seats
from serving.remote.front.supervisor import Supervisor
from serving.remote.slots import Slots
from serving.repository.places.repositories import Repositories
from serving.server.config import ServerConfig
from serving.server.server import ENGINE_MODULE

SECONDS = 60.0
# Callers of the mixed load.
_CALLERS = 24


@dataclass
class Front:
    """The front's side, as a test looks at it."""

    processes: Supervisor | Engines
    slots: Slots
    catalogue: Catalogue
    metrics: FrontMetrics
    totals: Totals

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when it holds."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.01)  # no event tells of every condition

    @property
    def engines(self) -> list[Supervisor]:
        """Keep an engine process each running."""
        return self.processes.engines if isinstance(self.processes, Engines) else [self.processes]

    async def ready(self) -> None:
        """Returns when everything serves."""
        await self.until(lambda: self.processes.ready() and self.catalogue.ready(strict=True))

    async def whole(self) -> None:
        """Returns when everything serves in each process."""
        await self.ready()
        await self.until(
            lambda: all(each.ready() and each.catalogue.ready(True) for each in self.engines)
        )

    async def logits(self, colour: np.ndarray, **options: Any) -> np.ndarray:
        """The answer of the model `colours` to an image of one colour, uint8 [3]."""
        image = np.broadcast_to(colour.astype(np.uint8), (1, 8, 8, 3)).copy()
        model = self.catalogue.get("colours")
        answer = await model.infer({"image": image}, 1, CallOptions(**options))
        return answer.outputs["logits"][0]

    def lent(self) -> int:
        """Slots that an engine process may use."""
        return sum(slab.used for slab in self.slots.slabs.values())


@dataclass
class Apart(Front):
    """A front with one engine process."""

    @property
    def supervisor(self) -> Supervisor:
        """Keeps it running."""
        [supervisor] = self.engines
        return supervisor

    @property
    def pid(self) -> int:
        """The engine process."""
        return pid_of(self.supervisor)

    async def kill(self) -> None:
        """Kills the engine process; returns when the front knows that it is dead."""
        await kill(self, self.supervisor)


def pid_of(engine: Supervisor) -> int:
    """The engine process that runs now."""
    assert engine.child is not None
    return engine.child.pid


async def kill(front: Front, engine: Supervisor) -> None:
    """Kills an engine process; returns when the front knows that it is dead."""
    child = engine.child
    assert child is not None
    os.kill(child.pid, 9)
    await asyncio.shield(child.ended)
    await front.until(lambda: not engine.ready())


def expected_logits(colour: np.ndarray) -> np.ndarray:
    """The right answer."""
    return colour.astype(np.float32) * 10 / 255


def _config(repository: Path, cache: Path, settings: dict[str, Any]) -> ServerConfig:
    return ServerConfig(
        model_repository=repository, cache_dir=cache, engine="onnxruntime", drain_seconds=5,
        **settings,
    )  # fmt: skip


@asynccontextmanager
async def apart(
    repository: Path,
    cache: Path,
    *,
    module: str = ENGINE_MODULE,
    hung_seconds: int = 30,
    **settings: Any,
) -> AsyncIterator[Apart]:
    """Serves a repository. module: runs the engine process."""
    config = _config(repository, cache, settings)
    metrics, slots = FrontMetrics(), Slots(config.memory_bytes)
    with Workers(2) as workers:
        catalogue = Catalogue(Repositories.of(repository), workers, metrics)
        told = config.model_dump(mode="json")
        supervisor = Supervisor(module, told, catalogue, metrics, slots, hung_seconds)
        supervisor.start()
        try:
            totals = Totals(metrics, *supervisor.shares)
            yield Apart(supervisor, slots, catalogue, metrics, totals)
            await supervisor.close()
        finally:
            await supervisor.ended()


@asynccontextmanager
async def several(
    repository: Path,
    cache: Path,
    *,
    module: str = ENGINE_MODULE,
    hung_seconds: int = 30,
    **settings: Any,
) -> AsyncIterator[Front]:
    """Serves a repository with two engine processes, as `apart` does with one."""
    config = _config(repository, cache, {"threads": 2, **settings})
    metrics, slots = FrontMetrics(), Slots(config.memory_bytes)
    made = seats(2, (), threads=2, memory_bytes=config.memory_bytes)
    with Workers(2) as workers:
        names = [seat.name for seat in made]
        catalogue = MergedCatalogue(Repositories.of(repository), workers, metrics, names)
        told = config.model_dump(mode="json")
        engines = Engines(module, told, catalogue, metrics, slots, made, hung_seconds)
        engines.start()
        try:
            totals = Totals(metrics, *engines.shares)
            yield Front(engines, slots, catalogue, metrics, totals)
            await engines.close()
        finally:
            await engines.ended()


def open_files() -> int:
    """Files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory_files() -> int:
    """Files in memory (memfd) that this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("/memfd:convserve")
        except FileNotFoundError:
            continue
    return found


async def _mixed_calls(
    front: Front, seed: int, outcomes: Counter[str], over: asyncio.Event
) -> None:
    """One caller of a mixed load: some calls are cancelled, some have little time. Each counts as
    accepted and by its outcome; an answer that is not that of its own image is wrong."""
    rng = np.random.default_rng(seed)
    while not over.is_set():
        asked, kind = rng.integers(70, 256, 3), rng.integers(0, 10)
        outcomes["accepted"] += 1
        deadline = time.monotonic() + (0.2 if kind == 0 else 30)
        call = asyncio.ensure_future(front.logits(asked, deadline=deadline))
        if kind == 1:
            await asyncio.sleep(0)
            call.cancel()
        try:
            answer = await call
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
        except ServingError as error:
            outcomes[type(error).__name__] += 1
        else:
            right = np.allclose(answer, expected_logits(asked), rtol=1e-4)
            outcomes["answered" if right else "wrong"] += 1


async def _kills(front: Front, times: int) -> Counter[str]:
    """Kills an engine process so often, at random moments of a mixed load; of several, also while
    another is started again. Outcomes by kind."""
    over, total = asyncio.Event(), Counter[str]()
    asking = [
        asyncio.ensure_future(_mixed_calls(front, seed, total, over)) for seed in range(_CALLERS)
    ]
    dice = random.Random(7)
    try:
        for _ in range(times):
            victim = dice.choice(front.engines)
            await front.until(lambda one=victim: one.ready() and front.catalogue.ready(strict=True))
            await asyncio.sleep(dice.uniform(0.0, 0.3))  # a moment of any kind
            await kill(front, victim)
        await front.whole()
    finally:
        over.set()
    await asyncio.gather(*asking)
    return total


async def check_kills(front: Front, times: int) -> None:
    """Kills engine processes so often: every call has one outcome, none a wrong answer, and the
    front keeps nothing of the dead."""
    await front.whole()
    await _kills(front, 1)
    gc.collect()  # files of tests before this one must not go meanwhile, and hide a leak
    files, memory = open_files(), _memory_files()
    total = await _kills(front, times)
    assert total["answered"] > 10 * times, total
    statuses = sum(total.values()) - total["accepted"]
    assert statuses == total["accepted"], total
    # Killed twice while it ran, all dead at once, or no time left: few have another status.
    expected = {"accepted", "answered", "cancelled", "EngineRestarts", "EngineError",
                "DeadlineExpired", "Shed"}  # fmt: skip
    assert set(total) <= expected, total
    assert front.metrics.stale_answers.children() == []
    await front.until(lambda: not front.lent())
    # A pipe of a dead process is closed in a later turn of the event loop.
    await front.until(lambda: open_files() <= files + 4)
    assert _memory_files() <= memory + 4

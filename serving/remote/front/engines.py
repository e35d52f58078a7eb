"""Keeps several engine processes running for a front."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from serving.base.errors import ModelNotFound, ModelNotReady, ServingError, restored, told
from serving.base.metrics import FrontMetrics
from serving.remote.front.loads import RemoteLoads
from serving.remote.front.merged import MergedCatalogue
from serving.remote.front.seats import Seat
from serving.remote.front.states import front_line
from serving.remote.front.supervisor import HUNG_SECONDS, Supervisor
from serving.remote.slots import Slots


class Engines:
    """Several supervisors as one. The death of an engine process costs its own calls a second run
    elsewhere, and no others anything.

    One process loads before the others do, at the start as by calls: what it has compiled and
    measured they find in the cache.

    catalogue: of all models.
    engines: the supervisors.
    loader: loads and unloads in all.
    shares: the sums of each.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        catalogue: MergedCatalogue,
        metrics: FrontMetrics,
        slots: Slots,
        seats: Sequence[Seat],
        hung_seconds: int = HUNG_SECONDS,
    ) -> None:
        self.catalogue = catalogue
        self._slots = slots
        self.loader = RemoteLoads(self._ask_all)
        self.engines = [
            Supervisor(module, settings, part, metrics, slots, hung_seconds, seat, self.loader)
            for seat, part in zip(seats, catalogue.parts, strict=True)
        ]
        self.shares = tuple(engine.share for engine in self.engines)

    # The side of the server.

    def start(self) -> None:
        """Begins to load models."""
        first, *others = self.engines
        first.start()
        for engine in others:
            engine.start(first.tried)

    def stop_following(self) -> None:
        """Leaves everything as it stands from now on; what serves goes on serving."""
        for engine in self.engines:
            engine.stop_following()

    async def refuse(self) -> None:
        """Fails the calls that wait for a batch with ModelNotReady, and all that come."""
        await asyncio.gather(*(engine.refuse() for engine in self.engines))

    async def close(self) -> None:
        """Ends the engine processes, once they have answered the accepted calls, and frees the
        memory of calls."""
        await asyncio.gather(*(engine.finish() for engine in self.engines))
        self._slots.close()
        self.loader.close()

    async def ended(self) -> None:
        """Returns when no engine process runs any more."""
        await asyncio.gather(*(engine.ended() for engine in self.engines))

    # What the server shows.

    def ready(self) -> bool:
        """Whether calls are answered, by all that could be started."""
        return self.answer() and all(engine.tried.is_set() for engine in self.engines)

    def answer(self) -> bool:
        """Whether calls are answered."""
        return any(engine.ready() for engine in self.engines)

    def lines(self) -> Sequence[str]:
        """A line for each process."""
        return front_line(), *(engine.line() for engine in self.engines)

    async def _ask_all(self, what: str, data: bytes = b"", /, **fields: Any) -> ServingError | None:
        """Asks all engine processes, one that runs first. One that is gone, or does not know the
        model, matters only where no other one has done it. Returns the error of one that could
        not, and raises where none could."""
        first = next((engine for engine in self.engines if engine.ready()), self.engines[0])
        ahead = await _tried(first, what, data, fields)
        others = [engine for engine in self.engines if engine is not first]
        rest = await asyncio.gather(*(_tried(engine, what, data, fields) for engine in others))
        at = self.engines.index(first)
        outcomes = [*rest[:at], ahead, *rest[at:]]
        failures = {number: error for number, error in enumerate(outcomes) if error is not None}
        grave = {
            number: error
            for number, error in failures.items()
            if not isinstance(error, ModelNotFound | ModelNotReady)
        }
        if len(failures) == len(outcomes):
            raise next(iter((grave or failures).values()))
        for number, error in grave.items():
            account = told(error)
            return restored(account._replace(text=f"engine {number}: {account.text}"))
        return None


async def _tried(
    engine: Supervisor, what: str, data: bytes, fields: Mapping[str, Any]
) -> ServingError | None:
    try:
        await engine.ask_started(what, data, **fields)
    except ServingError as error:
        return error
    return None

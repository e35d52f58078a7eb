"""A version that is loaded: what runs it, and what it is."""

import asyncio
import logging
from dataclasses import dataclass

from serving.base.machine.heap import trim_heap
from serving.batching.port import BatchPort
from serving.engines import Engine
from serving.models.catalogue import Catalogue
from serving.models.facts import ModelFacts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVersion:
    """A version's description, the port of its batcher, and the engine below."""

    facts: ModelFacts
    port: BatchPort
    engine: Engine

    async def retire(self, seconds: float, catalogue: Catalogue | None = None) -> None:
        """Answers the accepted calls for so many seconds, and frees it.

        catalogue: in which it serves no longer. Its readers have as long to know that.
        """
        if catalogue is not None:
            await catalogue.left(self.port, seconds)
        if not await self.port.drain(seconds):
            logger.warning("calls left when drained", extra={"model": self.facts.name})
        await asyncio.to_thread(self.close)
        # Freed memory of a network lies between other blocks, so the heap would grow by reloads.
        await asyncio.to_thread(trim_heap)
        about = {"model": self.facts.name, "version": self.facts.version}
        logger.info("model retired", extra=about)

    def close(self) -> None:
        """Stops the batcher's threads and frees the engine. Blocking."""
        self.port.close()
        self.engine.close()

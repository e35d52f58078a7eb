"""What an engine process tells its front beside answers: models, metrics, log lines."""

import asyncio
import logging
import weakref
from typing import Any

from serving.base import log_lines
from serving.base.metrics import FrontMetrics
from serving.batching.port import BatchPort
from serving.models.catalogue import Catalogue, ModelEntry
from serving.models.facts import ModelFacts
from serving.models.servable import Servable
from serving.models.workers import Workers
from serving.remote.control import Control
from serving.remote.engine.served import Served
from serving.repository.places.repositories import Repositories


class ReportedCatalogue(Catalogue):
    """A catalogue whose changes are told to the front, which keeps one like it."""

    def __init__(
        self, repositories: Repositories, workers: Workers, served: Served, control: Control
    ) -> None:
        super().__init__(repositories, workers, FrontMetrics())
        self._served = served
        self._control = control
        self._numbers: weakref.WeakKeyDictionary[Servable, int] = weakref.WeakKeyDictionary()
        self._new: dict[int, str] = {}
        self._told: dict[str, Any] = {}
        self._reporting = False

    def serve(self, entry: ModelEntry, facts: ModelFacts, port: BatchPort) -> None:
        """`Catalogue.serve`; the version gets a number."""
        super().serve(entry, facts, port)
        model = entry.versions[int(facts.version)].model
        assert model is not None
        self._numbers[model] = number = self._served.add(facts, port)
        self._new[number] = facts.to_json().decode()

    async def left(self, port: BatchPort, seconds: float) -> None:
        """`Catalogue.left`: the front says so."""
        await self._served.left(port, seconds)

    def changed(self) -> None:
        """`Catalogue.changed`; tells the front at the end of this round of the event loop."""
        super().changed()
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._reporting = False
        now = {name: self._described(entry) for name, entry in self.entries.items()}
        changes: dict[str, Any] = {
            name: entry for name, entry in now.items() if self._told.get(name) != entry
        }
        changes |= dict.fromkeys(self._told.keys() - now.keys())  # None: it is gone
        self._told = now
        new, self._new = self._new, {}
        self._control.tell("models", facts=new, entries=changes)

    def _described(self, entry: ModelEntry) -> dict[str, Any]:
        return {
            "state": entry.state,
            "problem": entry.problem,
            "is_model": entry.is_model,
            "versions": {
                str(version): {
                    "state": held.state,
                    "reason": held.reason,
                    "number": self._numbers.get(held.model, 0) if held.model is not None else 0,
                }
                for version, held in entry.versions.items()
            },
        }


class LogSender(logging.Handler):
    """Sends log lines to the front, whose log they belong to. Every thread may log."""

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._control = control
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks, and raises nothing."""
        try:
            line = log_lines.described(record)
            self._loop.call_soon_threadsafe(lambda: self._control.tell("log", **line))
        except Exception:  # the loop is closed, or arguments that do not fit the text
            self.handleError(record)

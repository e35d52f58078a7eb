"""The engine process: loads models and batches the calls of its front.

It imports no gRPC and no HTTP; the front starts it and reads its sockets, and imports no engine.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

import uvloop

from serving.base.errors import NotOffered
from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.models.workers import Workers
from serving.remote.channel import Channel
from serving.remote.control import Control, Question
from serving.remote.ends import Ends, follow_parent
from serving.remote.engine.reports import LogSender, ReportedCatalogue
from serving.remote.engine.served import Served
from serving.remote.flight import FlightRecorder
from serving.remote.override import override_of
from serving.remote.records import BadRecord
from serving.server.config import ServerConfig, StartError
from serving.server.runtime import Runtime, repositories_of, settle_process

logger = logging.getLogger(__name__)

# Seconds between two signs of life, and of those the one that carries the sums.
_BEAT_SECONDS = 0.25
_BEATS_A_SUM = 4


class EngineProcess:
    """Everything in this process, on the current event loop."""

    def __init__(self, ends: Ends) -> None:
        self._control = Control(self._told, self._asked)
        self._data = socket.socket(fileno=ends.data)
        self._metrics = EngineMetrics()
        self._served = Served(FlightRecorder(ends.flight), self._metrics.cancelled.count)
        self._runtime: Runtime | None = None
        self._front = socket.socket(fileno=ends.control)
        self._gone = asyncio.Event()
        self._looked: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves until the front is gone, or says that it is over."""
        loop = asyncio.get_running_loop()
        log = logging.getLogger()
        log.handlers[:] = [LogSender(self._control, loop)]
        log.setLevel(logging.INFO)
        tasks = [loop.create_task(work) for work in (self._converse(), self._beat())]
        await self._gone.wait()
        for task in tasks:
            task.cancel()

    async def _converse(self) -> None:
        await self._control.run(self._front)
        self._gone.set()

    async def _beat(self) -> None:
        await self._control.wait_open()
        channel = Channel(self._data, self._served.received, lambda _: self._gone.set())
        self._served.connect(channel)
        self._control.tell("hello")
        beats = 0
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            beats += 1
            fields: dict[str, Any] = {}
            if stuck := self._stuck():
                fields["stuck"] = stuck
            if not beats % _BEATS_A_SUM:
                fields["sums"] = self._metrics.snapshot()
            self._control.tell("beat", **fields)

    def _stuck(self) -> str:
        return "; ".join(
            f"{version.facts.name}/{version.facts.version}: a batch has been running for "
            f"{seconds:.0f} s"
            for version in self._served.versions.values()
            if (seconds := version.port.stuck_for())
        )

    def _told(self, fact: Question) -> None:
        if fact.what == "stop_following":
            if self._runtime is not None:
                self._runtime.stop_following()
        elif fact.what == "log_level":
            logging.getLogger().setLevel(int(fact.fields["level"]))
        else:
            raise BadRecord(f"a fact of kind {fact.what!r:.80}")

    async def _asked(self, question: Question) -> Any:
        fields = question.fields
        match question.what:
            case "start":
                await self._start(fields)
            case "load":
                starting = bool(fields.get("starting"))
                await self._loading().loader.load(
                    fields["name"],
                    override_of(question),
                    starting=starting,
                    files=str(fields.get("files", "")),
                )
            case "unload":
                await self._loading().loader.unload(fields["name"])
            case "sums":
                return self._metrics.snapshot()
            case "recent":
                return self._recent(fields["number"])
            case "refuse":
                await self._loading().refuse()
            case "close":
                await self._loading().close()
                asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._gone.set)
            case what:
                raise NotOffered(f"an engine process does not know {what!r:.80}")
        return None

    async def _start(self, fields: Mapping[str, Any]) -> None:
        """Loads models. Returns when it has tried each once."""
        config = ServerConfig.model_validate(fields["settings"])
        workers = Workers(1)  # of models, which here decode nothing
        gpus = fields.get("gpus")
        try:
            catalogue = ReportedCatalogue(
                repositories_of(config), workers, self._served, self._control
            )
            self._runtime = Runtime(
                config,
                catalogue,
                self._metrics,
                tuple(gpus) if gpus is not None else None,
                int(fields.get("gpu_count", 0)),
            )
        except StartError as error:  # files that were in order when the front began
            logger.error("the engine process cannot start", extra={"reason": str(error)})
            asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._gone.set)
            raise NotOffered(str(error)) from error
        self._runtime.start(but=fields["but"])
        await self._runtime.looked.wait()

    def _loading(self) -> Runtime:
        if self._runtime is None:
            raise NotOffered("the engine process has not started yet")
        return self._runtime

    def _recent(self, number: int) -> list[dict[str, Any]]:
        version = self._served.versions.get(number)
        if version is None or not isinstance(version.port, DynamicBatcher):
            return []
        return [record._asdict() for record in version.port.recent]


def main() -> None:
    """Runs an engine process for the front that has started it."""
    ends = follow_parent()
    # Signals to the whole group are the front's to answer; it ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    settle_process()

    async def run() -> None:
        await EngineProcess(ends).run()

    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(run())
    os._exit(0)  # a thread that hangs in native code must not hold it up

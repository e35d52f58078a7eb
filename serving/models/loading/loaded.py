"""A version that is loaded, until it is freed: what runs it, and what it is; and all that is loaded
of a name."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from serving.base.machine.heap import trim_heap
from serving.base.metrics import EngineMetrics
from serving.batching.port import BatchPort
from serving.engines import Engine
from serving.models.catalogue import Catalogue, ModelEntry, State, VersionEntry
from serving.models.facts import ModelFacts
from serving.repository.layout import ModelFolder, Stamp

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVersion:
    """A version's description, the port of its batcher, and the engine below.

    is_signed_anew: whether a key that is trusted by now has signed the same, where it was loaded
        from. Blocking.
    """

    facts: ModelFacts
    port: BatchPort
    engine: Engine
    is_signed_anew: Callable[[], bool] = lambda: False

    @property
    def labels(self) -> tuple[str, str, str, str]:
        """Those of its accuracy gauge: name, version, variant, engine."""
        facts = self.facts
        return facts.name, facts.version, facts.variant, facts.engine_name

    @property
    def chosen(self) -> dict[str, object]:
        """Its fields of the line of the log that says what serves."""
        facts = self.facts
        return {
            "model": facts.name,
            "version": facts.version,
            "variant": facts.variant,
            "engine": facts.engine_name,
            "not_chosen": list(facts.rejected),
            **({"signed_by": list(facts.signed_by)} if facts.signed_by else {}),
        }

    def of_files(self, files: str) -> "LoadedVersion":
        """The same; `files` tells the files that it was loaded from."""
        return replace(self, facts=replace(self.facts, files=files))

    def show(self, metrics: EngineMetrics, old: "LoadedVersion | None") -> None:
        """Sets the gauges of the version, which serves in the place of an old one."""
        facts = self.facts
        metrics.model_ready.labels(facts.name, facts.version).set(1)
        metrics.model_device_memory.labels(facts.name, facts.version).set(facts.device_bytes)
        if old is not None:
            metrics.model_accuracy.remove(*old.labels)
        if facts.evidence is not None:
            accuracy = facts.evidence.accuracy.value
            metrics.model_accuracy.labels(*self.labels).set(accuracy)

    def show_distrusted(self, entry: ModelEntry, metrics: EngineMetrics) -> None:
        """Has the version serve no longer, since none of the keys that have signed it is trusted
        any more."""
        name, number = self.facts.name, self.facts.version
        keys = ", ".join(self.facts.signed_by)
        reason = f"{name}/{number}: key {keys}, which signed it, is not trusted any more"
        logger.error("model distrusted", extra={"model": name, "reason": reason})
        entry.versions[int(number)] = VersionEntry(State.UNAVAILABLE, reason)
        metrics.model_ready.labels(name, number).set(0)

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


class Retiring:
    """Versions that have left the service of a catalogue: their accepted calls are answered within
    `drain_seconds`, then they are freed."""

    def __init__(self, catalogue: Catalogue, drain_seconds: float) -> None:
        self._catalogue = catalogue
        self._drain_seconds = drain_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, loaded: LoadedVersion) -> asyncio.Task[None]:
        """Retires a version in the background."""
        retiring = loaded.retire(self._drain_seconds, self._catalogue)
        task = asyncio.get_running_loop().create_task(retiring)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, left: Iterable[LoadedVersion]) -> None:
        """Retires those that are left too, while the catalogue ends, and waits for all."""
        last = (loaded.retire(self._drain_seconds) for loaded in left)
        await asyncio.gather(*last, *self._tasks)


@dataclass
class Holding:
    """What is loaded of one name.

    entry: its place in the catalogue.
    serving: versions that serve.
    stamps: those of the config and of the folder that each of them comes from.
    overridden: whether a version of an override serves, and not the repository's own.
    apart: whether a loader process chooses in the load that is under way.
    files: tells the files of its override from others; empty where it has none.
    lock: held during a load or unload.
    """

    entry: ModelEntry
    serving: dict[int, LoadedVersion] = field(default_factory=dict)
    stamps: dict[int, tuple[Stamp, Stamp]] = field(default_factory=dict)
    overridden: bool = False
    apart: bool = False
    files: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_from(self, folder: ModelFolder) -> bool:
        """Whether a version serves out of the files of a scanned folder."""
        return any(
            stamp == (folder.config_stamp, folder.versions.get(version))
            for version, stamp in self.stamps.items()
        )

    def serves_all(self) -> bool:
        """Whether every version that was selected serves, or is an override's."""
        idle = [held for held in self.entry.versions.values() if held.model is None]
        return self.overridden or not (idle or self.entry.problem)

    def free(self, version: int) -> None:
        """Lets go of a version, which is loaded anew next time."""
        del self.serving[version]
        self.stamps.pop(version, None)

"""The models by name and version, with the state of each. Read from the event loop."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from serving.base.errors import ModelNotFound, ModelNotReady, no_model, quoted
from serving.base.metrics import FrontMetrics
from serving.base.storage.address import is_url
from serving.base.text import one_line
from serving.batching.port import BatchPort
from serving.models.facts import ModelFacts
from serving.models.model import Model
from serving.models.servable import Servable
from serving.models.workers import Workers
from serving.repository.places.repositories import Repositories

logger = logging.getLogger(__name__)


class State(StrEnum):
    """States as RepositoryIndex spells them; UNKNOWN is a model that was never loaded."""

    UNKNOWN = ""
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class VersionStatus:
    """One line of the repository's index.

    version: empty for a line about the whole model.
    reason: one line; empty where it serves.
    is_model: False for what readiness does not wait for: a folder that holds something else, a
        store, or the newest of a model of which another version serves.
    """

    name: str
    version: str
    state: State
    reason: str
    is_model: bool = True


@dataclass
class VersionEntry:
    """A version that was selected.

    model: set while it serves; also while its calls wait for another process that loads it.
    """

    state: State = State.LOADING
    reason: str = ""
    model: Servable | None = None


# What is said of a model that the server has found and not tried yet.
WAITING = "waiting to be loaded"
# What is said of a repository behind a URL of which nothing is known yet.
FETCHING = "its models are being fetched"
# What an engine process says of a model all of whose instances are on GPUs of others.
ELSEWHERE = "its instances are on GPUs of other engine processes"


@dataclass
class ModelEntry:
    """A name that the server knows.

    state: state of the folder as a whole.
    problem: its fault; empty where there is none.
    """

    state: State = State.LOADING
    problem: str = WAITING
    is_model: bool = True
    versions: dict[int, VersionEntry] = field(default_factory=dict)

    def why_not(self) -> str:
        """The reasons why no version serves, in one line."""
        reasons = [self.problem] if self.problem else []
        reasons += [f"version {v}: {h.reason or h.state}" for v, h in self.versions.items()]
        return "; ".join(reasons) or "it has no versions"


class Loads(Protocol):
    """Loads and unloads models for those who may ask."""

    async def load(self, name: str, override: Mapping[str, str | bytes] | None = None) -> None:
        """`Loader.load`."""

    async def unload(self, name: str) -> None:
        """`Loader.unload`."""


class Catalogue:
    """All models of repositories as they stand. A Loader keeps the entries; everybody else reads.

    entries: by name. Code that changes one calls `changed`.
    workers: the worker threads of its models.
    """

    def __init__(self, repositories: Repositories, workers: Workers, metrics: FrontMetrics) -> None:
        self._repositories = repositories
        self._workers = workers
        self._metrics = metrics
        folders = [*repositories.folders, *(folder.resolve() for folder in repositories.folders)]
        folders.append(Path(tempfile.gettempdir()))
        self._places = [f"{folder}/" for folder in folders if folder.is_absolute()]
        self.entries: dict[str, ModelEntry] = {}
        self._listeners: list[Callable[[], None]] = []

    # What loading tells.

    def serve(self, entry: ModelEntry, facts: ModelFacts, port: BatchPort) -> None:
        """Lets a version serve from now on, in the place of the one that did."""
        model = Model(facts, port, self._workers, self._metrics)
        entry.versions[int(facts.version)] = VersionEntry(State.READY, model=model)

    async def left(self, port: BatchPort, seconds: float) -> None:
        """Returns when no call without inputs holds a place of a version that does not serve any
        more, or after so many seconds: then it may be drained. Here every call is known."""

    def show_places(self, repositories: Repositories) -> None:
        """Gives each repository that cannot be reached a line of the index, by its URL, and each of
        which nothing is known yet."""
        lost = repositories.unreachable()
        now = {url: (State.UNAVAILABLE, one_line(why), False) for url, why in lost.items()}
        now |= dict.fromkeys(repositories.awaited(), (State.LOADING, FETCHING, True))
        lines = {name: entry for name, entry in self.entries.items() if is_url(name)}
        if now == {url: (e.state, e.problem, e.is_model) for url, e in lines.items()}:
            return
        for url in lines:
            del self.entries[url]
        for url, line in now.items():
            self.entries[url] = ModelEntry(*line)
        self.changed()

    def changed(self) -> None:
        """Calls the listeners."""
        for listener in self._listeners:
            listener()

    # What everybody reads.

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every change of a state."""
        self._listeners.append(listener)

    def told(self, reason: str) -> str:
        """A reason as callers get it: without the place of the repository, or of the files of an
        override, on this machine."""
        for place in self._places:
            reason = reason.replace(place, "")
        return reason

    def entry(self, name: str) -> ModelEntry:
        """The entry of a name. Raises ModelNotFound."""
        entry = self.entries.get(name)
        if entry is None:
            raise ModelNotFound(no_model(name, self.entries))
        return entry

    def get(self, name: str, version: str = "") -> Servable:
        """The model of this name; without a version the newest that is ready.

        Raises ModelNotFound, ModelNotReady.
        """
        entry = self.entry(name)
        if not version:
            newest, model = -1, None
            for number, held in entry.versions.items():
                if held.model is not None and number > newest:
                    newest, model = number, held.model
            if model is None:
                raise ModelNotReady(f"model {name!r} is not ready: {self.told(entry.why_not())}")
            return model
        # No folder has a name of more digits, and Python refuses to convert 5,000 of them.
        number = int(version) if version.isdecimal() and len(version) <= 255 else -1
        asked = entry.versions.get(number)
        if asked is None:
            raise ModelNotFound(
                f"model {name!r} has no version {quoted(version)}; "
                f"it has {[str(v) for v in sorted(entry.versions)]}"
            )
        if asked.model is None:
            raise ModelNotReady(
                f"model {name!r} version {version} is not ready: "
                f"{self.told(asked.reason or asked.state)}"
            )
        return asked.model

    def ready_versions(self, name: str) -> list[str]:
        """Versions of a model that serve now, ascending; empty where there are none."""
        entry = self.entries.get(name)
        versions = sorted(entry.versions.items()) if entry else []
        return [str(v) for v, held in versions if held.state is State.READY]

    def models(self) -> list[Servable]:
        """Every version that serves, by name and version."""
        return [
            held.model
            for _, entry in sorted(self.entries.items())
            for _, held in sorted(entry.versions.items())
            if held.model is not None
        ]

    def index(self) -> list[VersionStatus]:
        """Every known version with its state; a model without any has one line of its own."""
        lines = []
        for name, entry in sorted(self.entries.items()):
            for version, held in sorted(entry.versions.items()):
                lines.append(VersionStatus(name, str(version), held.state, self.told(held.reason)))
            if entry.problem or not entry.versions:
                problem = self.told(entry.problem)
                problem = problem or "no version folder that the version policy selects"
                lines.append(VersionStatus(name, "", entry.state, problem, entry.is_model))
        return lines

    async def repository_index(self) -> list[VersionStatus]:
        """`index`, and a line for each model that lies in the repository but was never loaded."""
        try:
            folders = await asyncio.to_thread(self._repositories.scan)
        except OSError as error:
            logger.error("repository cannot be read", extra={"reason": str(error)})
            folders = {}
        idle = [
            VersionStatus(name, "", State.UNKNOWN, self.told(folder.problem), folder.is_model)
            for name, folder in folders.items()
            if name not in self.entries
        ]
        return sorted(self.index() + idle, key=lambda line: line.name)

    def ready(self, strict: bool) -> bool:
        """At least one model serves and none is loading; when strict, every one serves."""
        lines = [line for line in self.index() if line.is_model]
        if any(line.state is State.LOADING for line in lines):
            return False
        if strict and any(line.state is not State.READY for line in lines):
            return False
        return any(line.state is State.READY for line in lines)

    def stuck(self) -> list[str]:
        """A line for each model with a batch that is stuck."""
        return [
            f"{model.facts.name}/{model.facts.version}: a batch has been running for "
            f"{seconds:.0f} s"
            for model in self.models()
            if (seconds := model.stuck_for())
        ]

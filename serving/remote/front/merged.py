"""The catalogue of a front whose models several engine processes serve."""

from collections.abc import Sequence

from serving.base.metrics import FrontMetrics
from serving.batching.port import BatchPort
from serving.models.catalogue import ELSEWHERE, Catalogue, ModelEntry, State, VersionEntry
from serving.models.facts import ModelFacts
from serving.models.servable import Servable
from serving.models.workers import Workers
from serving.remote.front.port import RemotePort
from serving.remote.front.spread import Spread
from serving.repository.places.repositories import Repositories

# The state of a version is the first of these that it has in an engine process. One that is started
# again loads also what all others have found to be wrong.
_ORDER = (State.READY, State.UNLOADING, State.UNAVAILABLE, State.LOADING, State.UNKNOWN)

_Key = tuple[str, int]


class Part(Catalogue):
    """The models of one engine process, or of none while it is started.

    name: of the process, in reasons.
    ports: of the versions that have served.
    """

    def __init__(
        self, name: str, repositories: Repositories, workers: Workers, metrics: FrontMetrics
    ) -> None:
        super().__init__(repositories, workers, metrics)
        self.name = name
        self.ports: dict[_Key, RemotePort] = {}

    def serve(self, entry: ModelEntry, facts: ModelFacts, port: BatchPort) -> None:
        """`Catalogue.serve`."""
        assert isinstance(port, RemotePort)
        super().serve(entry, facts, port)
        self.ports[facts.name, int(facts.version)] = port


class MergedCatalogue(Catalogue):
    """The models of all engine processes.

    A version serves as soon as one of them has it. Where it is loaded anew, calls go to those that
    have the newest files, so that no caller gets an older answer after a newer one.

    parts: the catalogues of the engine processes, which it follows.
    """

    def __init__(
        self,
        repositories: Repositories,
        workers: Workers,
        metrics: FrontMetrics,
        names: Sequence[str],
    ) -> None:
        super().__init__(repositories, workers, metrics)
        self.parts = [Part(name, repositories, workers, metrics) for name in names]
        # Of each version that serves: who takes its calls, and the model before each port.
        self._spread: dict[_Key, Spread] = {}
        self._models: dict[_Key, dict[RemotePort, Servable]] = {}
        for part in self.parts:
            part.on_change(self._merge_all)

    def get(self, name: str, version: str = "") -> Servable:
        """`Catalogue.get`: the model of the engine process that has the least to do."""
        facts = super().get(name, version).facts
        key = (facts.name, int(facts.version))
        return self._models[key][self._spread[key].chosen()]

    def _merge_all(self) -> None:
        names = {name for part in self.parts for name in part.entries}
        for gone in self.entries.keys() - names:
            self._keep_versions(gone, set())
            del self.entries[gone]
        for name in names:
            self._merge(name)
        self.changed()

    def _merge(self, name: str) -> None:
        there = [(part, part.entries[name]) for part in self.parts if name in part.entries]
        there = [of for of in there if of[1].problem != ELSEWHERE] or there
        told = min(
            (entry for _, entry in there),
            key=lambda entry: (bool(entry.problem), entry.state is State.LOADING),
        )
        entry = self.entries.setdefault(name, ModelEntry())
        entry.state, entry.problem, entry.is_model = told.state, told.problem, told.is_model
        versions = {version for _, of in there for version in of.versions}
        self._keep_versions(name, versions)
        for version in versions:
            held = [(part, of.versions[version]) for part, of in there if version in of.versions]
            entry.versions[version] = self._version((name, version), held)

    def _keep_versions(self, name: str, versions: set[int]) -> None:
        entry = self.entries[name]
        for version in entry.versions.keys() - versions:
            del entry.versions[version]
            self._serve_no_longer((name, version))

    def _serve_no_longer(self, key: _Key) -> None:
        if (spread := self._spread.pop(key, None)) is not None:
            spread.over(())
            del self._models[key]

    def _version(self, key: _Key, held: Sequence[tuple[Part, VersionEntry]]) -> VersionEntry:
        """The entry of a version by those of the engine processes that know it."""
        state = min((version.state for _, version in held), key=_ORDER.index)
        models = {
            part.ports[key]: version.model for part, version in held if version.model is not None
        }
        if not models:
            self._serve_no_longer(key)
            return VersionEntry(state, _reason(state, held))
        if state is not State.READY:
            state = State.LOADING  # its calls wait
        newest = max(models, key=lambda port: (port.live, port.serial))
        self._models[key] = models
        self._spread.setdefault(key, Spread()).over([p for p in models if p.is_as(newest)])
        return VersionEntry(state, _reason(state, held), models[newest])


def _reason(state: State, held: Sequence[tuple[Part, VersionEntry]]) -> str:
    """Why a version does not serve; or where it does, why not in all engine processes."""
    told = [(part, version) for part, version in held if version.reason]
    if state is not State.READY or len({version.reason for _, version in held}) == 1:
        return next((version.reason for _, version in told if version.state is state), "")
    failed = [of for of in told if of[1].state in (State.READY, State.UNAVAILABLE)]
    return "; ".join(f"{part.name}: {version.reason}" for part, version in failed)

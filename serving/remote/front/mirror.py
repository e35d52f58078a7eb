"""Keeps the catalogue of a front as its engine process tells."""

from collections.abc import Mapping
from typing import Any

from serving.models.catalogue import Catalogue, ModelEntry, State, VersionEntry
from serving.models.facts import ModelFacts
from serving.remote.front.calls import Calls
from serving.remote.front.port import Recent, RemotePort
from serving.remote.records import BadRecord

_LOST = "waits for the engine process"


class Mirror:
    """The versions of the engine process, each behind a port.

    While an engine process is started, versions of the former one stay, so that their calls can
    wait: until the new one serves them, or says that it does not.
    """

    def __init__(self, catalogue: Catalogue, calls: Calls, recent: Recent) -> None:
        self._catalogue = catalogue
        self._calls = calls
        self._recent = recent
        self._facts: dict[int, ModelFacts] = {}
        # The port of each version that serves, and older ones with calls on their way.
        self._ports: dict[tuple[str, int], RemotePort] = {}
        self._older: list[tuple[tuple[str, int], RemotePort]] = []

    def numbers(self) -> list[int]:
        """The numbers of all versions that the engine process may run."""
        ports = [*self._ports.values(), *(port for _, port in self._older)]
        return [port.number for port in ports if port.number]

    def told(self, fields: Mapping[str, Any]) -> None:
        """Takes what has changed. Raises BadRecord."""
        try:
            for number, text in fields["facts"].items():
                self._facts[int(number)] = ModelFacts.from_json(text.encode())
            for name, entry in fields["entries"].items():
                self._follow(name, entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRecord(f"models that cannot be read: {error}") from error
        self._catalogue.changed()

    def lost(self) -> None:
        """The engine process is gone."""
        for key, port in self._ports.items():
            port.lost()
            self._older.append((key, port))
        for _, port in self._older:
            port.lost()
        self._ports.clear()
        self._facts.clear()
        for entry in self._catalogue.entries.values():
            for held in entry.versions.values():
                held.state, held.reason = State.LOADING, _LOST
        self._catalogue.changed()

    def settled(self) -> None:
        """The engine process serves all that it will: forgets what has not come back."""
        for name, entry in list(self._catalogue.entries.items()):
            for version, held in list(entry.versions.items()):
                if held.reason == _LOST:
                    self._drop(entry, name, version)
            if not entry.versions and entry.state is State.READY:
                del self._catalogue.entries[name]
        for key, port in self._older:
            if not port.number:
                port.replaced_by(self._ports.get(key))
        self._older = [(key, port) for key, port in self._older if port.number]
        self._catalogue.changed()

    def _follow(self, name: str, told: Mapping[str, Any] | None) -> None:
        entries = self._catalogue.entries
        if told is None:
            if (gone := entries.pop(name, None)) is not None:
                for version in list(gone.versions):
                    self._drop(gone, name, version)
            return
        entry = entries.setdefault(name, ModelEntry())
        entry.state, entry.problem = State(told["state"]), str(told["problem"])
        entry.is_model = bool(told["is_model"])
        versions = {int(version): held for version, held in told["versions"].items()}
        loading = State.LOADING in (entry.state, *(State(v["state"]) for v in versions.values()))
        for version in list(entry.versions):
            if version not in versions and not (
                loading and entry.versions[version].reason == _LOST
            ):
                self._drop(entry, name, version)
        for version, held in versions.items():
            self._follow_version(entry, name, version, held)

    def _follow_version(
        self, entry: ModelEntry, name: str, version: int, told: Mapping[str, Any]
    ) -> None:
        state, number = State(told["state"]), int(told["number"])
        current = self._ports.get((name, version))
        if number and (current is None or current.number != number):
            self._serve(entry, (name, version), self._facts.pop(number), number)
        held = entry.versions.setdefault(version, VersionEntry())
        if not number and not (held.reason == _LOST and state is State.LOADING):
            self._drop(entry, name, version)
            held = entry.versions[version] = VersionEntry()
        lost = not number and held.model is not None
        held.state, held.reason = state, _LOST if lost else str(told["reason"])

    def _serve(
        self, entry: ModelEntry, key: tuple[str, int], facts: ModelFacts, number: int
    ) -> None:
        port = RemotePort(facts, number, self._calls, self._recent)
        self._retire(key)
        self._ports[key] = port
        self._catalogue.serve(entry, facts, port)
        for of, old in self._older:
            if of == key and not old.number:
                old.replaced_by(port)
        self._older = [(of, old) for of, old in self._older if of != key or old.number]
        self._calls.bound(port)

    def _drop(self, entry: ModelEntry, name: str, version: int) -> None:
        """A version serves no longer."""
        entry.versions.pop(version, None)
        self._retire((name, version))
        for key, port in self._older:
            if key == (name, version) and not port.number:
                port.replaced_by(None)

    def _retire(self, key: tuple[str, int]) -> None:
        port = self._ports.pop(key, None)
        self._older = [(of, old) for of, old in self._older if old.busy]
        if port is not None:
            port.retire()
            self._older.append((key, port))

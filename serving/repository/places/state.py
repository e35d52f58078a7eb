"""Records of repositories in the cache: what lies in a folder, and when to try again."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from serving.base.files import read_file
from serving.repository.places.locks import alone

# Seconds before what could not be fetched is tried again, doubled each time up to the longest.
# Shorter asks a store more often that cannot answer.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# Seconds for which a repository that no server lists any more keeps its versions in the cache.
_FORGOTTEN = 30 * 86400.0
_STATE_FILE = "state.json"
_STATE_BYTES = 256 << 20


class HeldVersion(BaseModel):
    """A version in the folder of a repository.

    mark: of its files when they were listed.
    digest: of the folder in the cache that holds it.
    selected: it is to be served, and stays in the cache.
    """

    mark: str
    digest: str
    selected: bool


class HeldModel(BaseModel):
    """A model in the folder of a repository.

    mark: of all its files when it was last brought up to date; empty where that failed.
    beside: marks of its files outside of versions, by name.
    beside_bytes: of these files.
    """

    mark: str = ""
    beside: dict[str, str] = {}
    beside_bytes: int = 0
    versions: dict[int, HeldVersion] = {}


class State(BaseModel):
    """The models in the folder of a repository, by name."""

    models: dict[str, HeldModel] = {}


class Place:
    """The folder of a repository in a cache: its models, and the record of them. The record's time
    is that of the last good listing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / _STATE_FILE
        self.models = folder / "models"

    @contextmanager
    def opened(self, stopped: Callable[[], bool]) -> Iterator[State]:
        """The record, which nobody else changes meanwhile. Makes the folder where it is missing.
        Raises OSError, and StorageError as `alone`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(self._folder / "lock", stopped):
            yield _read(self._file)

    def save(self, state: State) -> None:
        """Writes the record in one step. Raises OSError."""
        partial = self._folder / f"{_STATE_FILE}.partial"
        partial.write_text(state.model_dump_json())
        partial.replace(self._file)

    def listed(self) -> None:
        """Notes a good listing. Raises OSError."""
        self._file.touch()

    def listed_at(self) -> float | None:
        """Seconds since 1970; None where there was no good listing."""
        try:
            return self._file.stat().st_mtime
        except OSError:
            return None


@dataclass(frozen=True)
class Cache:
    """Where repositories are kept, and how they are fetched.

    folder: of this user alone.
    max_bytes: that all models may take.
    timeout_seconds: longest wait for an answer of a store.
    """

    folder: Path
    max_bytes: int
    timeout_seconds: float

    @property
    def versions(self) -> Path:
        """The folder of all versions."""
        return self.folder / "versions"

    def place(self, address: str) -> Place:
        """The folder of a repository."""
        return Place(self.folder / hashlib.sha256(address.encode()).hexdigest()[:16])

    def in_use(self) -> tuple[set[str], int]:
        """The digests of versions that some repository selects; bytes of files beside versions."""
        digests: set[str] = set()
        beside = 0
        for file in self.folder.glob(f"*/{_STATE_FILE}"):
            if file.stat().st_mtime > time.time() - _FORGOTTEN:
                models = _read(file).models.values()
                digests |= {v.digest for m in models for v in m.versions.values() if v.selected}
                beside += sum(model.beside_bytes for model in models)
        return digests, beside


class Waits:
    """When what could not be fetched is tried again."""

    def __init__(self) -> None:
        # By name: the mark with which it failed, the pause, and its end.
        self._failed: dict[str, tuple[str, float, float]] = {}

    def over(self, name: str, mark: str = "") -> bool:
        """Whether to try it now; something with another mark than before is tried at once."""
        before, _, until = self._failed.get(name, (mark, 0.0, 0.0))
        return before != mark or time.monotonic() >= until

    def failed(self, name: str, mark: str = "") -> None:
        """It was tried, and has failed."""
        before, pause, _ = self._failed.get(name, ("", 0.0, 0.0))
        pause = min(2 * pause, _LONGEST_PAUSE) if pause and before == mark else _FIRST_PAUSE
        self._failed[name] = mark, pause, time.monotonic() + pause

    def fetched(self, name: str) -> None:
        """It was tried, and is here."""
        self._failed.pop(name, None)


def _read(file: Path) -> State:
    try:
        return State.model_validate_json(read_file(file, _STATE_BYTES))
    except (OSError, ValidationError):
        return State()

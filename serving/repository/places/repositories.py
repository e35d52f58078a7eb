"""The repositories of a server as one."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from serving.base.folders import why_no_folder
from serving.base.machine.priority import fetches_give_way
from serving.base.metrics import EngineMetrics
from serving.base.storage.address import is_url
from serving.base.storage.messages import StorageError
from serving.base.storage.systems import check_known
from serving.repository.layout import ModelFolder, can_be_folder, scan, scan_model
from serving.repository.places.fetched import FetchedRepository
from serving.repository.places.state import Cache

logger = logging.getLogger(__name__)

# Seconds that a look waits for stores. Longer holds up models that are here already, shorter loads
# some that are older than the store's, and then those.
_PATIENCE = 2.0


@dataclass(frozen=True)
class _Place:
    """One repository.

    address: as messages name it.
    folder: its models.
    fetched: follows the URL; None for a folder, and where another process does.
    """

    address: str
    folder: Path
    fetched: FetchedRepository | None = None


class Repositories:
    """Models in several places. A name that is in two of them is refused.

    folders: those in which models lie here.
    """

    def __init__(self, places: Sequence[_Place], folders: Sequence[Path]) -> None:
        self.folders = folders
        self._places = places
        self._fetched = [place.fetched for place in places if place.fetched is not None]
        # The last scan of each, for one that cannot be read any more.
        self._last: dict[str, dict[str, ModelFolder]] = {}
        # Fetches of all models that had not ended at the last look, by URL.
        self._running: dict[str, asyncio.Future[None]] = {}

    @classmethod
    def of(
        cls,
        *addresses: str | Path,
        cache: Cache | None = None,
        metrics: EngineMetrics | None = None,
    ) -> "Repositories":
        """Those with these addresses.

        cache: of what URLs hold.
        metrics: count what this process fetches; without them another one fetches it.
        """
        places: list[_Place] = []
        folders: list[Path] = []
        for address in map(str, addresses):
            if is_url(address):
                assert cache is not None, address
                folders.append(cache.versions)
                fetched = None if metrics is None else FetchedRepository(address, cache, metrics)
                places.append(_Place(address, cache.place(address).models, fetched))
            else:
                places.append(_Place(address, Path(address)))
            folders.append(places[-1].folder)
        return cls(places, folders)

    def __str__(self) -> str:
        return ", ".join(place.address for place in self._places)

    def check(self) -> None:
        """Raises StorageError for a place that cannot be one: no folder, or a kind of URL that
        nothing here can read."""
        for place in self._places:
            if is_url(place.address):
                check_known(place.address.partition("://")[0], "cloud")
            elif not place.folder.is_dir():
                raise StorageError(f"{place.address}: {why_no_folder(place.folder)}")

    # Fetching.

    async def fetch(self, name: str | None = None, *, contents: bool = True) -> None:
        """`fetch_now` on threads whose end nobody waits for when the process ends."""
        if fetches := self._begin(name, contents=contents):
            await asyncio.wait(map(asyncio.wrap_future, fetches))

    def fetch_now(self, name: str | None = None) -> None:
        """Brings the folders of URLs up to date, or one model in them. What went wrong is told by
        the models, and by `unreachable`."""
        wait(self._begin(name))

    def _begin(self, name: str | None, *, contents: bool = True) -> list[Future[None]]:
        """Fetches from each URL on a thread of its own, so that none waits for a store that hangs;
        a model only from where it is known to lie, unless it is new."""
        fetched = self._fetched
        if name is not None:
            if not can_be_folder(name):
                return []
            homes = [place for place in self._places if (place.folder / name).is_dir()]
            fetched = [p.fetched for p in homes if p.fetched is not None] if homes else fetched
        return [_in_thread(partial(one.fetch, name, contents=contents)) for one in fetched]

    async def look(self) -> dict[str, ModelFolder]:
        """All models, as `scan`, after those behind URLs were fetched, or as they are here by then
        where a store takes longer. Raises OSError."""
        for one in self._fetched:
            if one.address not in self._running:
                self._running[one.address] = asyncio.wrap_future(_in_thread(one.fetch))
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_PATIENCE)
        self._running = {url: fetch for url, fetch in self._running.items() if not fetch.done()}
        return await asyncio.to_thread(self.scan)

    async def next_look(self, seconds: float) -> None:
        """Returns after so many seconds, and sooner where the last look missed what is here now."""
        if self._running:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait(self._running.values(), timeout=seconds, return_when=first)
        else:
            await asyncio.sleep(seconds)

    async def with_older(self, folder: ModelFolder) -> ModelFolder:
        """The folder of a model with one more version, an older one, where it has more in a store
        than here."""
        for place in self._places:
            fetched = place.fetched
            if fetched is not None and folder.path == place.folder / folder.name:
                fetch = partial(fetched.fetch, folder.name, older=True)
                await asyncio.wrap_future(_in_thread(fetch))
                return replace(folder, versions=scan_model(folder.path).versions)
        return folder

    def awaited(self) -> list[str]:
        """The URLs of which nothing is known yet."""
        return [one.address for one in self._fetched if not one.looked]

    def unreachable(self) -> Mapping[str, str]:
        """Why URLs could not be listed, by URL."""
        return {one.address: one.unreachable for one in self._fetched if one.unreachable}

    def is_whole(self) -> bool:
        """Whether all that was looked for in URLs is here."""
        return all(one.looked and not (one.unreachable or one.problems) for one in self._fetched)

    def close(self) -> None:
        """Gives up what is fetched at the moment."""
        for one in self._fetched:
            one.close()

    # What is here.

    def scan(self) -> dict[str, ModelFolder]:
        """As `layout.scan`, over all of them. A place that cannot be read any more is as it was.
        Raises OSError where none can be read."""
        found: dict[str, ModelFolder] = {}
        homes: dict[str, str] = {}
        failures: list[OSError] = []
        for place in self._places:
            try:
                self._last[place.address] = _scanned(place)
            except OSError as error:
                failures.append(error)
                logger.error("repository cannot be read", extra={"reason": str(error)})
            for name, folder in self._last.get(place.address, {}).items():
                first = homes.setdefault(name, place.address)
                twice = _twice(name, first, place.address)
                found[name] = folder if name not in found else replace(found[name], problem=twice)
        if failures and len(failures) == len(self._places):
            raise failures[0]
        return dict(sorted(found.items()))

    def model(self, name: str) -> ModelFolder | None:
        """The folder of a model; None where no place has one."""
        found: ModelFolder | None = None
        home = ""
        for place in self._places:
            path = place.folder / name
            problem = place.fetched.problems.get(name, "") if place.fetched is not None else ""
            if not can_be_folder(name) or not (problem or path.is_symlink() or path.is_dir()):
                continue
            if found is not None:
                return replace(found, problem=_twice(name, home, place.address))
            found, home = _told(scan_model(path), problem), place.address
        return found

    def home(self, name: str) -> Path:
        """The path of a model, where one would lie if no place has it."""
        folder = self.model(name)
        return self._places[0].folder / name if folder is None else folder.path


def _scanned(place: _Place) -> dict[str, ModelFolder]:
    problems = place.fetched.problems if place.fetched is not None else {}
    try:
        found = scan(place.folder)
    except FileNotFoundError:
        if not is_url(place.address):
            raise
        found = {}  # nothing was fetched yet
    for name in {*problems} - {*found}:
        path = name if can_be_folder(name) else ".refused"
        found[name] = ModelFolder(name, place.folder / path)
    return {name: _told(folder, problems.get(name, "")) for name, folder in found.items()}


def _told(folder: ModelFolder, problem: str) -> ModelFolder:
    """The folder with the reason why its newest is not here. Where nothing of it is, that is its
    own problem."""
    if not problem:
        return folder
    if any(folder.versions.values()):
        return replace(folder, stale=problem)
    return replace(folder, problem=problem)


def _twice(name: str, first: str, second: str) -> str:
    return f"{name}: lies in two repositories: {first}/{name} and {second}/{name}"


def _in_thread(work: Callable[[], None]) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        fetches_give_way()
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True, name="fetch").start()
    return future

"""Load and unload calls, which the engine processes carry out, and the next ones again."""

import asyncio
import itertools
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, NamedTuple
from weakref import WeakValueDictionary

from serving.base.errors import ServingError
from serving.remote.override import packed

logger = logging.getLogger(__name__)

# Asks an engine process: what, bytes, fields.
Ask = Callable[..., Awaitable[Any]]
# Asks all of them. Returns the error of one that could not where another one could, and raises
# where none could.
AskAll = Callable[..., Awaitable[ServingError | None]]


class _Override(NamedTuple):
    """The parameters of a load call, in a file that has no name.

    files: tells them from those of other calls.
    """

    entries: list[tuple[str, str, int]]
    file: IO[bytes]
    files: str


class RemoteLoads:
    """Implements `Loads`. Remembers what calls have changed: another engine process starts from the
    repository, where nothing tells of it.

    ask: asks the engine processes, when they have started.
    unloaded: models that a new engine process does not load from the repository.
    """

    def __init__(self, ask: AskAll) -> None:
        self._ask = ask
        self._numbers = itertools.count(1)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loaded: dict[str, _Override | None] = {}
        self.unloaded: set[str] = set()

    async def load(self, name: str, override: Mapping[str, str | bytes] | None = None) -> None:
        """`Loader.load`."""
        entries, data = packed(override or {})
        files = f"override {next(self._numbers)}" if entries else ""
        async with self._lock(name):
            failure = await self._ask("load", data, name=name, override=entries, files=files)
            kept = None
            if entries:
                file = tempfile.TemporaryFile()  # noqa: SIM115 - it is kept
                kept = _Override(entries, file, files)
                file.write(data)
            self._forget(name)
            self._loaded[name] = kept
            self.unloaded.discard(name)
            if kept is not None:
                self.unloaded.add(name)  # the repository's own would take its place for a while
        if failure is not None:
            raise failure

    async def unload(self, name: str) -> None:
        """`Loader.unload`."""
        async with self._lock(name):
            failure = await self._ask("unload", name=name)
            self._forget(name)
            self.unloaded.add(name)
        if failure is not None:
            raise failure

    def _lock(self, name: str) -> asyncio.Lock:
        """Held while a call changes a model: all engine processes see changes in one order."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def restore(self, ask: Ask) -> None:
        """Carries the calls out once more, in a new engine process.

        ask: asks that one.
        """
        for name, kept in list(self._loaded.items()):
            data = b""
            if kept is not None:
                kept.file.seek(0)
                data = kept.file.read()
            entries, files = (kept.entries, kept.files) if kept else ([], "")
            given = {"name": name, "override": entries, "files": files}
            try:
                await ask("load", data, **given, starting=True)  # accepted calls wait for it
            except ServingError as error:
                logger.error("model not loaded", extra={"model": name, "reason": str(error)})

    def close(self) -> None:
        """Forgets everything."""
        for name in list(self._loaded):
            self._forget(name)

    def _forget(self, name: str) -> None:
        kept = self._loaded.pop(name, None)
        if kept is not None:
            kept.file.close()

"""Load and unload calls, which the engine process carries out, and the next one again."""

import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, NamedTuple

from serving.base.errors import ServingError
from serving.remote.override import packed

logger = logging.getLogger(__name__)

# Asks the engine process: what, bytes, fields.
Ask = Callable[..., Awaitable[Any]]


class _Override(NamedTuple):
    """The parameters of a load call, in a file that has no name."""

    entries: list[tuple[str, str, int]]
    file: IO[bytes]


class RemoteLoads:
    """Implements `Loads`. Remembers what calls have changed: another engine process starts from the
    repository, where nothing tells of it.

    ask: asks the engine process, when it has started. ask_now: the one that is starting.
    unloaded: models that a new engine process does not load from the repository.
    """

    def __init__(self, ask: Ask, ask_now: Ask) -> None:
        self._ask, self._ask_now = ask, ask_now
        self._loaded: dict[str, _Override | None] = {}
        self.unloaded: set[str] = set()

    async def load(self, name: str, override: Mapping[str, str | bytes] | None = None) -> None:
        """`Loader.load`."""
        entries, data = packed(override or {})
        await self._ask("load", data, name=name, override=entries)
        kept = None
        if entries:
            kept = _Override(entries, tempfile.TemporaryFile())  # noqa: SIM115 - it is kept
            kept.file.write(data)
        self._forget(name)
        self._loaded[name] = kept
        self.unloaded.discard(name)
        if kept is not None:
            self.unloaded.add(name)  # the repository's own would take its place for a while

    async def unload(self, name: str) -> None:
        """`Loader.unload`."""
        await self._ask("unload", name=name)
        self._forget(name)
        self.unloaded.add(name)

    async def restore(self) -> None:
        """Carries the calls out once more, in a new engine process."""
        for name, kept in list(self._loaded.items()):
            data = b""
            if kept is not None:
                kept.file.seek(0)
                data = kept.file.read()
            entries = kept.entries if kept else []
            try:
                # Accepted calls wait for it.
                await self._ask_now("load", data, name=name, override=entries, starting=True)
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

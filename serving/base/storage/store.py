"""Bytes behind a path or URL: read by range, listed, written.

Local paths need no package. For URLs fsspec is imported, and with it the package of that store.
Every request has a time-out and every read a bounded number of attempts; a read that was cut goes
on from the byte where it was cut. A store that is silent for long is told in the log, with the time
when it is given up.
"""

import asyncio
import itertools
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from serving.base.storage.address import is_url
from serving.base.storage.entry import Entry, entry_of
from serving.base.storage.messages import StorageError, Words, sends_whole_files, told
from serving.base.storage.systems import (
    Access,
    file_system,
    files_below,
    lists_at_once,
    lists_pages,
    page_below,
)

log = logging.getLogger(__name__)

# Most bytes of one request. Larger needs fewer requests, smaller loses less where one fails.
RANGE_BYTES = 8 << 20
# A request that failed is repeated for a quarter of its bytes, down to this many: a store that
# cuts connections is read in pieces that arrive.
_LEAST_RANGE = 16 << 10
# Seconds before the first repetition, doubled for each one more, up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# Seconds without an answer after which the log says so, and again after so many more.
_SILENCE = 20.0
# A listing of many pages may take so many times as long as one request.
_LISTING = 10
# Seconds of a listing that asks for each folder and file. Larger bears more files on a slow server,
# smaller notices one without end sooner.
_WALK_SECONDS = 600.0
# Functions that stand in the place of a method, by their names.
_FILES_BELOW, _PAGE_BELOW = "files_below", "page_below"
_FUNCTIONS: dict[str, Callable[..., Any]] = {_FILES_BELOW: files_below, _PAGE_BELOW: page_below}
# Seconds between two looks whether a request that waits is still wanted.
_LOOK = 0.5
# Requests that packages without asynchronous calls may leave unanswered, each with a thread.
_MOST_STUCK = 32
# Not to be cured by trying again.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, StorageError)
Result = TypeVar("Result")


class Store:
    """Files behind paths and URLs. Threads may share one.

    Every method raises the error of its words, which names the URL and the reason and no
    credentials.
    """

    def __init__(self, access: Access, words: Words) -> None:
        self._access = access
        self._words = words
        self._closed = threading.Event()
        self._systems: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()
        self._stuck = threading.BoundedSemaphore(_MOST_STUCK)
        # When the log last told of a silent store.
        self._said = -_SILENCE

    def read(self, address: str, start: int, end: int, until: float = math.inf) -> bytes:
        """The bytes from `start` to before `end`, all of them.

        until: when it is given up, by time.monotonic; a store may send little at a time, for ever.
        """
        if not is_url(address):
            return self._once(address, lambda: _read_local(address, start, end))
        got = bytearray()
        step, failures, since = end - start, 0, time.monotonic()
        while start + len(got) < end:
            at = start + len(got)
            if time.monotonic() > until:
                raise self._words.error(f"{address}: given up at byte {at:,}: too slow")
            try:
                stop = min(at + step, end)
                part = self._request(address, "_cat_file", since, start=at, end=stop)
            except _FINAL as error:
                raise self._told(address, error) from error
            except Exception as error:  # Each store's package raises errors of its own.
                failures += 1
                if failures >= self._access.attempts:
                    raise self._told(
                        address, error, f"at byte {at:,} after {failures} tries"
                    ) from error
                log.debug("%s: byte %d: %r; again", address, at, error)
                step = max(step // 4, _LEAST_RANGE)
                self._closed.wait(min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))
                continue
            if not part:
                raise self._words.error(f"{address}: ends at byte {at:,}, expected {end:,}")
            if at + len(part) > end:
                raise self._told(address, sends_whole_files(address))
            got += part
            failures, since = 0, time.monotonic()
        return bytes(got)

    def read_file(self, address: str, limit: int) -> bytes:
        """All bytes of a file of at most `limit`."""
        entry = self.entry(address)
        if entry.size > limit:
            raise self._words.error(f"{address}: {entry.size:,} bytes, expected at most {limit:,}")
        return self.read(address, 0, entry.size)

    def entry(self, address: str) -> Entry:
        """The size and the mark of change of a file."""
        if not is_url(address):
            status = self._once(address, lambda: Path(address).stat())
            changed = str(status.st_mtime_ns)
            return Entry(address, Path(address).is_dir(), status.st_size, changed)
        info = self._repeated(address, "_info")
        entry = entry_of(address, info)
        if not entry.is_folder and info.get("size") is None:
            unknown = StorageError(f"{address}: its server does not say how large it is")
            raise self._told(address, unknown) from unknown
        return entry

    def exists(self, address: str) -> bool:
        if not is_url(address):
            return Path(address).exists()
        return bool(self._repeated(address, "_exists"))

    def list(self, address: str) -> list[Entry]:
        """The entries of a folder, by name."""
        if not is_url(address):
            return self._once(
                address, lambda: [self.entry(str(path)) for path in sorted(Path(address).iterdir())]
            )
        found = self._repeated(address, "_ls", detail=True, patience=_LISTING)
        scheme = address.partition("://")[0]
        own = address.rstrip("/")
        entries = []
        for info in found:
            name = str(info["name"])
            full = name if is_url(name) else f"{scheme}://{name.lstrip('/')}"
            # Stores without real folders list one as an entry of itself.
            if full.rstrip("/") != own:
                entries.append(entry_of(full, info))
        return sorted(entries, key=lambda entry: entry.address)

    def tree(self, address: str, most: int, depth: int) -> Sequence[Entry]:
        """The files below a URL, down to `depth` folders, by address, and what cannot be read.
        Empty where there are none; raises where there are more than `most`."""
        scheme = address.partition("://")[0]
        if lists_at_once(scheme.lower()):
            found = self._repeated(address, _FILES_BELOW, most=most, patience=_LISTING)
            full = (f"{scheme}://{str(info['name']).lstrip('/')}" for info in found)
            files = [entry_of(*each) for each in zip(full, found, strict=True)]
        else:
            ends = time.monotonic() + _WALK_SECONDS
            files = []
            for file in itertools.islice(self._walk(address, depth), most + 1):
                files.append(file)
                if time.monotonic() > ends:
                    raise self._words.error(
                        f"{address}: {len(files):,} files and folders took {_WALK_SECONDS:.0f} s"
                    )
            if len(files) > most:
                raise self._words.error(f"{address}: more than {most:,} files and folders")
        shown = (file for file in files if file.problem or not file.is_folder)
        return sorted(shown, key=lambda entry: entry.address)

    def files(self, address: str, depth: int, most: int) -> Iterator[Entry]:
        """As `tree`, while they are listed and in the store's order; of stores that list by pages a
        page is in memory, and they may have more than `most`."""
        scheme = address.partition("://")[0]
        if not lists_pages(scheme.lower()):
            at_once = lists_at_once(scheme.lower())
            yield from self.tree(address, most, depth) if at_once else self._walk(address, depth)
            return
        mark = None
        while True:
            found, mark = self._repeated(address, _PAGE_BELOW, mark=mark, patience=_LISTING)
            for info in found:
                yield entry_of(f"{scheme}://{str(info['name']).lstrip('/')}", info)
            if mark is None:
                return

    def _walk(self, folder: str, depth: int) -> Iterator[Entry]:
        for entry in self.list(folder):
            place = entry.address.rstrip("/")
            try:
                if not entry.is_folder:
                    # The pages of web servers tell names alone.
                    yield entry if entry.changed else self.entry(place)
                elif depth:
                    yield entry  # folders without files are counted too
                    yield from self._walk(place, depth - 1)
            except self._words.error as error:
                if self._closed.is_set() or not isinstance(error.__cause__, _FINAL):
                    raise
                yield replace(entry, problem=str(error))

    def close(self) -> None:
        """Fails what waits for an answer, and all that comes after."""
        self._closed.set()

    def put(self, file: Path, address: str) -> None:
        """Moves a local file to an address, where it appears in one step."""
        if not is_url(address):
            partial = Path(f"{address}.partial")

            def move() -> None:
                partial.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, partial)
                partial.replace(address)

            self._once(address, move)
            return
        if address.startswith(("http://", "https://")):
            raise self._words.error(
                f"{address}: web servers are read only; expected s3, gs, az or a path"
            )
        # The store's package sends large files in parts, and repeats a part that failed.
        system = self._system(address, writes=True)
        try:
            system.put_file(str(file), address)
        except Exception as error:  # Each store's package raises errors of its own.
            raise self._told(address, error) from error
        file.unlink()

    def _once(self, address: str, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except (OSError, StorageError) as error:
            raise self._told(address, error) from error

    def _repeated(self, address: str, method: str, **options: Any) -> Any:
        since = time.monotonic()
        for attempt in range(1, self._access.attempts + 1):
            try:
                return self._request(address, method, since, **options)
            except _FINAL as error:
                raise self._told(address, error) from error
            except Exception as error:  # Each store's package raises errors of its own.
                if attempt == self._access.attempts:
                    raise self._told(address, error, f"after {attempt} tries") from error
                self._closed.wait(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
        raise AssertionError

    def _request(
        self, address: str, method: str, since: float, patience: int = 1, **options: Any
    ) -> Any:
        """One call of a file system's method; `method` is the name of the asynchronous one, or one
        of _FUNCTIONS, `since` when the store was first asked for this. Raises TimeoutError, and
        errors of the package."""
        system = self._system(address)
        timeout = self._access.timeout_seconds * patience
        if system.async_impl:
            path = system._strip_protocol(address)
            if method in _FUNCTIONS:
                scheme = address.partition("://")[0].lower()
                call = _FUNCTIONS[method](scheme, system, path, **options)
            else:
                call = getattr(system, method)(path, **options)
            answer = asyncio.run_coroutine_threadsafe(call, system.loop)
        else:
            name = method.removeprefix("_")
            answer = self._in_thread(address, lambda: getattr(system, name)(address, **options))
        ends = time.monotonic() + timeout
        try:
            while True:
                left = ends - time.monotonic()
                silent = max(since, self._said) + _SILENCE - time.monotonic()
                try:
                    return answer.result(max(0.0, min(left, silent, _LOOK)))
                except TimeoutError:
                    if answer.done() or left <= 0:
                        raise
                if self._closed.is_set():
                    raise StorageError(f"{address}: given up, as this process ends")
                if silent <= 0:
                    self._say(address, since, timeout)
        finally:
            answer.cancel()

    def _in_thread(self, address: str, work: Callable[[], Any]) -> Future[Any]:
        """The result of work that may never end; no thread is waited for when the process ends."""
        future: Future[Any] = Future()
        if not self._stuck.acquire(blocking=False):
            raise StorageError(f"{address}: {_MOST_STUCK} requests have no answer yet")

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            finally:
                self._stuck.release()

        future.set_running_or_notify_cancel()
        threading.Thread(target=run, daemon=True).start()
        return future

    def _told(self, address: str, error: Exception, place: str = "") -> Exception:
        return told(self._words, address, error, place)

    def _say(self, address: str, since: float, timeout: float) -> None:
        """Tells of a silent store, for all threads once."""
        with self._lock:
            now = time.monotonic()
            if now < self._said + _SILENCE:
                return
            self._said = now
        log.warning(
            "%s: no answer for %.0f s; a request is waited for %g s, and made %d times at most",
            address, now - since, timeout, self._access.attempts,
        )  # fmt: skip

    def _system(self, address: str, *, writes: bool = False) -> Any:
        scheme = address.partition("://")[0].lower()
        with self._lock:
            if (scheme, writes) not in self._systems:
                extras = self._words.extras
                system = self._systems[scheme, writes] = file_system(
                    scheme, self._access, extras, writes
                )
                # This class repeats what it reads itself, and less of it each time.
                if not writes and hasattr(system, "retries"):
                    system.retries = 1
                if not writes and hasattr(system, "config_kwargs"):
                    system.config_kwargs["retries"] = {"total_max_attempts": 1}
            return self._systems[scheme, writes]


def _read_local(path: str, start: int, end: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(start)
        got = file.read(end - start)
    if len(got) < end - start:
        raise StorageError(f"{path}: ends at byte {start + len(got):,}, expected {end:,}")
    return got

"""The versions in the cache: a folder each, by the digest of what it holds.

A version comes here in one step, when it is whole; what is half fetched lies in another folder,
which whoever fetches next empties. Beside each lies a record of its files, their sizes and
checksums, so that a damaged one is noticed. Servers may share a cache: one at a time changes it.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from serving.base.files import read_file, sha256
from serving.base.storage.messages import StorageError
from serving.repository.places.state import Cache

logger = logging.getLogger(__name__)

# Seconds between two tries to get at a cache that another process changes.
_AGAIN = 0.1
# Bytes that stay free on the disk of the cache: it also holds compiled models.
_SPARE = 64 << 20


class Kept:
    """The versions in a cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._folder = cache.folder
        self._versions = cache.versions
        self._partial = cache.folder / "partial"
        # Digests of those whose content was checked since this process began.
        self._checked: set[str] = set()
        # Digests of those that are about to be wanted.
        self._pinned: set[str] = set()

    def path(self, digest: str) -> Path:
        """The folder of a version."""
        return self._versions / digest

    @contextlib.contextmanager
    def alone(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """While this is held no other process changes the cache. Raises StorageError when it is
        stopped, OSError where the cache cannot be written."""
        for folder in (self._versions, self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if stopped():
                        raise StorageError("given up, as this process ends") from None
                    time.sleep(_AGAIN)
            for left in self._partial.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            self._pinned.clear()
            yield

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder, which is gone afterwards unless it was taken. Raises StorageError where
        there can be none."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self._partial))
        except OSError as error:
            raise StorageError(f"cannot be written to the cache: {error.strerror}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def pin(self, digest: str) -> None:
        """Keeps a version as long as the cache is held."""
        self._pinned.add(digest)

    def take(self, staged: Path, digest: str, sums: Mapping[str, str]) -> None:
        """Moves a whole version here. sums: SHA-256 of each file. Raises StorageError."""
        try:
            record = {name: [(staged / name).stat().st_size, sums[name]] for name in sorted(sums)}
            self._drop(digest)
            partial = staged / f".{digest}"
            with partial.open("w") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._record_file(digest))
            staged.rename(self.path(digest))
            _sync(self._versions)
        except OSError as error:
            raise StorageError(f"cannot be written to the cache: {error.strerror}") from error
        self._checked.add(digest)

    def has(self, digest: str) -> bool:
        """Whether a version is here and whole. One that is damaged is removed."""
        folder = self.path(digest)
        if digest not in self._checked or not folder.is_dir():
            self._checked.discard(digest)
            if not _holds(folder, self._record(digest)):
                if folder.exists():
                    logger.warning("a damaged version is removed", extra={"folder": str(folder)})
                self._drop(digest)
                return False
            self._checked.add(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)  # it was used last
        return True

    def find(self, checksum: str) -> Path | None:
        """A file here whose SHA-256 was this when it came."""
        for digest in self._digests():
            for name, (_, found) in self._record(digest).items():
                if found == checksum and (self.path(digest) / name).is_file():
                    return self.path(digest) / name
        return None

    def make_room(self, size: int) -> None:
        """Removes versions that nobody wants, those used longest ago first, until so many bytes
        more find room. Raises StorageError where they do not."""
        sizes = {digest: self._size(digest) for digest in self._digests()}
        wanted = self._cache.wanted() | self._pinned
        idle = [digest for digest in sizes if digest not in wanted]
        idle.sort(key=lambda digest: _used(self.path(digest)), reverse=True)
        while True:
            over = sum(sizes.values()) + size - self._cache.max_bytes
            free = shutil.disk_usage(self._folder).free - size - _SPARE
            if over <= 0 and free >= 0:
                return
            if not idle:
                break
            digest = idle.pop()
            logger.info("version evicted from the cache", extra={"digest": digest})
            self._drop(digest)
            del sizes[digest]
        if over > 0:
            raise StorageError(
                f"{size:,} bytes find no room in the cache: {sum(sizes.values()):,} are in use, "
                f"--repository-cache-mib allows {self._cache.max_bytes:,}"
            )
        raise StorageError(f"{size:,} bytes find no room on the disk of the cache")

    def _digests(self) -> list[str]:
        return sorted(path.stem for path in self._versions.glob("*.json"))

    def _size(self, digest: str) -> int:
        return sum(size for size, _ in self._record(digest).values())

    def _record_file(self, digest: str) -> Path:
        return self._versions / f"{digest}.json"

    def _record(self, digest: str) -> dict[str, tuple[int, str]]:
        """Size and SHA-256 of each file of a version; empty where it has no record."""
        try:
            record = json.loads(read_file(self._record_file(digest)))
            return {str(name): (int(size), str(found)) for name, (size, found) in record.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _drop(self, digest: str) -> None:
        """Removes a version. It disappears in one step: half of one would look whole."""
        self._checked.discard(digest)
        gone = Path(tempfile.mkdtemp(dir=self._partial))
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(gone / digest)
        self._record_file(digest).unlink(missing_ok=True)
        shutil.rmtree(gone, ignore_errors=True)


def _holds(folder: Path, record: Mapping[str, tuple[int, str]]) -> bool:
    """Whether a folder has the files of its record, and their content."""
    try:
        return bool(record) and all(
            (folder / name).stat().st_size == size and sha256(folder / name) == found
            for name, (size, found) in record.items()
        )
    except OSError:
        return False


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _sync(folder: Path) -> None:
    """Has the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

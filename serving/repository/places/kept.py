"""The versions in the cache: a folder each, by the digest of what it holds.

A version comes here in one step, when it is whole; what is half fetched lies in another folder, and
goes with the process that fetches. Beside each lies a record of its files, their sizes and
checksums, so that a damaged one is noticed. Servers may share a cache: they fetch beside each
other, and one at a time adds and removes versions.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from serving.base.files import read_file, sha256
from serving.base.storage.messages import StorageError
from serving.repository.places.locks import alone, marked
from serving.repository.places.state import Cache

logger = logging.getLogger(__name__)

# Bytes that stay free on the disk of the cache: it also holds compiled models.
_SPARE = 64 << 20


class Kept:
    """The versions in a cache. One thread uses it, but for `find`.

    stopped: whether to give up waiting for others.
    """

    def __init__(self, cache: Cache, stopped: Callable[[], bool]) -> None:
        self._cache = cache
        self._stopped = stopped
        self._folder = cache.folder
        self._versions = cache.versions
        self._partial = cache.folder / "partial"
        # Digests of those whose content was checked since this process began.
        self._checked: set[str] = set()
        # Holds the versions that are about to be wanted.
        self._pins = contextlib.ExitStack()

    def open(self) -> None:
        """Makes the folders where they are missing. Raises OSError."""
        for folder in (self._versions, self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """The folder of a version."""
        return self._versions / digest

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return alone(self._folder / "lock", self._stopped)

    @contextlib.contextmanager
    def staging(self, size: int = 0) -> Iterator[Path]:
        """An empty folder with room for so many bytes, which is gone afterwards unless it was
        taken. Raises StorageError where there can be none."""
        with contextlib.ExitStack() as stack:
            try:
                with self._alone():
                    reserved = self._reserved()
                    if size:
                        self._make_room(size, reserved)
                    home = Path(tempfile.mkdtemp(prefix=f"{size}-", dir=self._partial))
                    stack.callback(shutil.rmtree, home, ignore_errors=True)
                    stack.enter_context(marked(home))
                folder = home / "staged"
                folder.mkdir(mode=0o700)
            except OSError as error:
                raise StorageError(f"cannot be written to the cache: {error.strerror}") from error
            yield folder

    def _reserved(self) -> int:
        """Bytes for which others have folders; those of killed processes are removed."""
        size = 0
        for folder in list(self._partial.iterdir()):
            with contextlib.suppress(FileNotFoundError), marked(folder) as left:
                if left:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    size += int(folder.name.partition("-")[0])
        return size

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Meanwhile nobody removes the versions that `has` or `take` were asked for."""
        with self._pins:
            yield

    def take(self, staged: Path, digest: str, sums: Mapping[str, str]) -> None:
        """Moves a whole version here. sums: SHA-256 of each file. Raises StorageError."""
        if self.has(digest):
            return
        try:
            record = {name: [(staged / name).stat().st_size, sums[name]] for name in sorted(sums)}
            partial = staged / f".{digest}"
            with partial.open("w") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            with self._alone():
                if not self.path(digest).is_dir():
                    partial.rename(self._record_file(digest))
                    staged.rename(self.path(digest))
                    _sync(self._versions)
                self._pin(digest)
        except OSError as error:
            raise StorageError(f"cannot be written to the cache: {error.strerror}") from error
        self._checked.add(digest)

    def has(self, digest: str) -> bool:
        """Whether a version is here and whole. One that is damaged is removed."""
        folder = self.path(digest)
        if not self._pin(digest):
            return False
        if digest not in self._checked:
            if not _holds(folder, self._record(digest)):
                logger.warning("a damaged version is removed", extra={"folder": str(folder)})
                with self._alone():
                    self._drop(digest)
                return False
            self._checked.add(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)  # it was used last
        return True

    def _pin(self, digest: str) -> bool:
        """False where there is no such version, or it is being removed."""
        try:
            return self._pins.enter_context(marked(self.path(digest), shared=True))
        except OSError:
            return False

    def find(self, checksum: str) -> Path | None:
        """A file here whose SHA-256 was this when it came; it may go at any moment."""
        for digest in self._digests():
            for name, (_, found) in self._record(digest).items():
                if found == checksum and (self.path(digest) / name).is_file():
                    return self.path(digest) / name
        return None

    def _make_room(self, size: int, reserved: int) -> None:
        """Removes versions that nobody wants, those used longest ago first, until so many bytes
        more find room beside those that are reserved. Raises StorageError where they do not."""
        sizes = {digest: self._size(digest) for digest in self._digests()}
        wanted, beside = self._cache.in_use()
        idle = [digest for digest in sizes if digest not in wanted]
        idle.sort(key=lambda digest: _used(self.path(digest)), reverse=True)
        while True:
            used = sum(sizes.values()) + beside + reserved
            over = used + size - self._cache.max_bytes
            free = shutil.disk_usage(self._folder).free - size - _SPARE
            if over <= 0 and free >= 0:
                return
            if not idle:
                break
            digest = idle.pop()
            if self._evicted(digest):
                del sizes[digest]
        if over > 0:
            raise StorageError(
                f"{size:,} bytes find no room in the cache: {used:,} are in use, "
                f"--repository-cache-mib allows {self._cache.max_bytes:,}"
            )
        raise StorageError(f"{size:,} bytes find no room on the disk of the cache")

    def _evicted(self, digest: str) -> bool:
        """Removes a version unless somebody is about to want it; whether it is gone."""
        with contextlib.suppress(FileNotFoundError), marked(self.path(digest)) as free:
            if not free:
                return False
            logger.info("version evicted from the cache", extra={"digest": digest})
            self._drop(digest)
        self._record_file(digest).unlink(missing_ok=True)
        return True

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

"""Objects to files: streamed, hashed, and whole or not at all."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from serving.base.errors import InvalidManifest
from serving.base.files import TEXT_BYTES, open_file
from serving.base.machine.priority import fetches_give_way
from serving.base.storage.entry import Entry
from serving.base.storage.messages import StorageError
from serving.base.storage.store import RANGE_BYTES, Store
from serving.repository.manifest import MANIFEST_FILE, read_manifest
from serving.repository.places.kept import Kept
from serving.repository.places.objects import MAX_OBJECTS, file_shown

# Objects of a version at a time, each with 8 MiB in memory. More fill a fast network, fewer leave
# more of it to callers.
_AT_A_TIME = 4
# Seconds that an object may take beside one for so many bytes. With more, a store that sends little
# at a time holds up others for longer.
_SECONDS, _SLOWEST = 120.0, 64 << 10


@dataclass(frozen=True)
class Download:
    """Fetches from a store.

    count: is told the bytes of each part.
    """

    store: Store
    kept: Kept
    count: Callable[[int], None]

    def object(self, file: Entry, target: Path) -> str:
        """Writes an object to a new file; its SHA-256. Raises StorageError, and leaves nothing that
        could be taken for it."""
        digest = hashlib.sha256()
        until = time.monotonic() + _SECONDS + file.size / _SLOWEST
        try:
            with target.open("xb") as stream:
                for start in range(0, file.size, RANGE_BYTES):
                    stop = min(start + RANGE_BYTES, file.size)
                    part = self.store.read(file.address, start, stop, until)
                    stream.write(part)
                    digest.update(part)
                    self.count(len(part))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _unkept(file, error) from error
        return digest.hexdigest()

    def version(self, files: Mapping[str, Entry]) -> str:
        """The digest of a version that is kept from now on, fetched where it was not.

        Raises StorageError, naming the object, where one is missing, cut, changes meanwhile, has
        another checksum than the manifest says, or finds no room.
        """
        with self.kept.staging() as first:
            sums = self._published(files, first)
            digest = _digest(files, sums)
            if digest and self.kept.has(digest):
                return digest
            with self.kept.staging(sum(file.size for file in files.values())) as folder:
                if MANIFEST_FILE in files:
                    (first / MANIFEST_FILE).rename(folder / MANIFEST_FILE)
                sums |= self._others(files, folder, sums)
                self.check_unchanged(files)
                digest = digest or _digest(files, sums)
                self.kept.take(folder, digest, sums)
        return digest

    def _others(
        self, files: Mapping[str, Entry], folder: Path, sums: Mapping[str, str]
    ) -> dict[str, str]:
        """Fetches the files beside the manifest; their SHA-256."""
        left = [name for name in files if name != MANIFEST_FILE]
        with ThreadPoolExecutor(_AT_A_TIME, "fetch", initializer=fetches_give_way) as threads:
            fetched = [
                threads.submit(self._file, files[name], folder / name, sums.get(name, ""))
                for name in left
            ]
            try:
                return {name: one.result() for name, one in zip(left, fetched, strict=True)}
            finally:
                for one in fetched:
                    one.cancel()

    def check_unchanged(self, files: Mapping[str, Entry]) -> None:
        """Raises StorageError unless each file, by its name in one folder of the store, is still as
        it was listed."""
        depth = max((name.count("/") for name in files), default=0)
        for folder in {f.address.rsplit("/", n.count("/") + 1)[0] for n, f in files.items()}:
            now = {file.address: file for file in self.store.tree(folder, MAX_OBJECTS, depth)}
            for file in files.values():
                if now.get(file.address) != file:
                    raise StorageError(f"{file_shown(file)}: changed while it was fetched")

    def _published(self, files: Mapping[str, Entry], folder: Path) -> dict[str, str]:
        """Fetches the manifest; its SHA-256, and those that it gives of other files."""
        if MANIFEST_FILE not in files:
            return {}
        place = files[MANIFEST_FILE]
        if place.size > TEXT_BYTES:
            raise StorageError(
                f"{file_shown(place)}: {place.size:,} bytes, expected at most {TEXT_BYTES:,}"
            )
        sums = {MANIFEST_FILE: self.object(place, folder / MANIFEST_FILE)}
        try:
            manifest = read_manifest(folder)
        except InvalidManifest as error:
            reason = str(error).replace(str(folder / MANIFEST_FILE), file_shown(place))
            raise StorageError(reason) from error
        assert manifest is not None
        for variant in manifest.variants:
            sums |= {variant.file: variant.sha256, **variant.data}
        missing = sorted(sums.keys() - files.keys())
        if missing:
            raise StorageError(f"{file_shown(place)}: names {missing[0]}, which is not there")
        return sums

    def _file(self, file: Entry, target: Path, expected: str) -> str:
        """Fetches one file of a version, or copies it where its content is kept already."""
        same = self.kept.find(expected) if expected else None
        if same is not None:
            try:
                shutil.copyfile(same, target)
                with open_file(target) as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() == expected:
                        os.fsync(stream.fileno())
                        return expected
                target.unlink()
            except FileNotFoundError:  # it was removed meanwhile
                target.unlink(missing_ok=True)
            except OSError as error:
                raise _unkept(file, error) from error
        found = self.object(file, target)
        if expected and found != expected:
            raise StorageError(
                f"{file_shown(file)}: sha256 is {found}, the manifest says {expected[:64]}"
            )
        return found


def _unkept(file: Entry, error: OSError) -> StorageError:
    return StorageError(f"{file_shown(file)}: cannot be written to the cache: {error.strerror}")


def _digest(files: Mapping[str, Entry], sums: Mapping[str, str]) -> str:
    """A name for what a version holds: by the checksums of its files or, of those without, by their
    place and the store's mark. Empty where a file has neither."""
    lines = []
    for name, file in sorted(files.items()):
        if name not in sums and not file.changed:
            return ""
        known = sums.get(name) or f"{file.address} {file.changed}"
        lines.append(f"{name}\0{file.size}\0{known}")
    return hashlib.sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()

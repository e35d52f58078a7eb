"""Bytes behind a path or URL: read by range, listed, written.

Local paths need no package. For URLs fsspec is imported, and with it the package of that store.
Every request has a time-out and every read a bounded number of attempts; a read that was cut goes
on from the byte where it was cut.
"""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from training.errors import DataError
from training.recipes.remote.storage import Storage, is_url

log = logging.getLogger(__name__)

# Most bytes of one request. Larger needs fewer requests, smaller loses less where one fails.
RANGE_BYTES = 8 << 20
# A request that failed is repeated for a quarter of its bytes, down to this many: a store that
# cuts connections is read in pieces that arrive.
_LEAST_RANGE = 16 << 10
# Seconds before the first repetition, doubled for each one more, up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A listing of many pages may take so many times as long as one request.
_LISTING = 10
_SHOWN_ERROR = 200
# What follows a URL's ?: stores answer with the address of a copy, whose signature lets anybody in.
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS", re.I)
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
_PACKAGES |= dict.fromkeys(("abfs", "abfss", "adl"), "adlfs")
# Not to be cured by trying again.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, DataError)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """A file or folder of a listing.

    size: bytes; 0 for folders, and where the store does not say.
    changed: whatever the store gives that changes with the content: ETag, time, generation.
    """

    address: str
    is_folder: bool
    size: int
    changed: str

    @property
    def name(self) -> str:
        return last_part(self.address)


def last_part(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def joined(address: str, name: str) -> str:
    """The address of an entry in a folder."""
    return f"{address.rstrip('/')}/{name}"


class Store:
    """Files behind paths and URLs. Threads may share one.

    Every method raises DataError, which names the URL and the reason and no credentials.
    """

    def __init__(self, config: Storage | None = None) -> None:
        self._config = config or Storage()
        self._systems: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()

    def read(self, address: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, all of them."""
        if not is_url(address):
            return self._once(address, lambda: _read_local(address, start, end))
        got = bytearray()
        step, failures = end - start, 0
        while start + len(got) < end:
            at = start + len(got)
            try:
                stop = min(at + step, end)
                part = self._request(address, "_cat_file", start=at, end=stop)
            except _FINAL as error:
                raise _told(address, error) from error
            except Exception as error:  # Each store's package raises errors of its own.
                failures += 1
                if failures >= self._config.attempts:
                    raise _told(address, error, f"at byte {at:,} after {failures} tries") from error
                log.debug("%s: byte %d: %r; again", address, at, error)
                step = max(step // 4, _LEAST_RANGE)
                time.sleep(min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))
                continue
            if not part:
                raise DataError(f"{address}: ends at byte {at:,}, expected {end:,}")
            if at + len(part) > end:
                raise DataError(
                    f"{address}: its server sends whole files instead of the range asked for; "
                    "expected one that answers range requests"
                )
            got += part
            failures = 0
        return bytes(got)

    def read_file(self, address: str, limit: int) -> bytes:
        """All bytes of a file of at most `limit`."""
        entry = self.entry(address)
        if entry.size > limit:
            raise DataError(f"{address}: {entry.size:,} bytes, expected at most {limit:,}")
        return self.read(address, 0, entry.size)

    def entry(self, address: str) -> Entry:
        """The size and the mark of change of a file."""
        if not is_url(address):
            status = self._once(address, lambda: Path(address).stat())
            changed = str(status.st_mtime_ns)
            return Entry(address, Path(address).is_dir(), status.st_size, changed)
        return _entry(address, self._repeated(address, "_info"))

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
                entries.append(_entry(full, info))
        return sorted(entries, key=lambda entry: entry.address)

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
            raise DataError(f"{address}: web servers are read only; expected s3, gs, az or a path")
        # The store's package sends large files in parts, and repeats a part that failed.
        system = self._system(address, writes=True)
        try:
            system.put_file(str(file), address)
        except Exception as error:  # Each store's package raises errors of its own.
            raise _told(address, error) from error
        file.unlink()

    def _once(self, address: str, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except OSError as error:
            raise _told(address, error) from error

    def _repeated(self, address: str, method: str, **options: Any) -> Any:
        for attempt in range(1, self._config.attempts + 1):
            try:
                return self._request(address, method, **options)
            except _FINAL as error:
                raise _told(address, error) from error
            except Exception as error:  # Each store's package raises errors of its own.
                if attempt == self._config.attempts:
                    raise _told(address, error, f"after {attempt} tries") from error
                time.sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))
        raise AssertionError

    def _request(self, address: str, method: str, patience: int = 1, **options: Any) -> Any:
        """One call of a file system's method; `method` is the name of the asynchronous one."""
        system = self._system(address)
        if not system.async_impl:
            return getattr(system, method.removeprefix("_"))(address, **options)
        from fsspec.asyn import sync

        timeout = self._config.timeout_seconds * patience
        path = system._strip_protocol(address)
        return sync(system.loop, getattr(system, method), path, timeout=timeout, **options)

    def _system(self, address: str, *, writes: bool = False) -> Any:
        scheme = address.partition("://")[0].lower()
        with self._lock:
            if (scheme, writes) not in self._systems:
                system = self._systems[scheme, writes] = _file_system(scheme, self._config)
                # This class repeats what it reads itself, and less of it each time.
                if not writes and hasattr(system, "retries"):
                    system.retries = 1
                if not writes and hasattr(system, "config_kwargs"):
                    system.config_kwargs["retries"] = {"total_max_attempts": 1}
            return self._systems[scheme, writes]


def _file_system(scheme: str, config: Storage) -> Any:
    try:
        import fsspec

        given = {"use_listings_cache": False, "skip_instance_cache": True}
        given |= _options(scheme, config)
        if _PACKAGES.get(scheme) == "gcsfs" and config.endpoint_url is not None:
            # By default gcsfs asks over gRPC for the kind of a bucket, a minute each: only Google's
            # own store answers.
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem(**given)
        return fsspec.filesystem(scheme, **given)
    except ImportError as error:
        package = _PACKAGES.get(scheme, error.name or "fsspec")
        raise DataError(
            f"{scheme}://: the package {package} is not installed; "
            "pip install 'convserve[train,cloud]' brings it"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{scheme}://: cannot be opened: {_one_line(error)}; expected s3, gs, az, http, https "
            "or another kind that fsspec knows"
        ) from error


def _options(scheme: str, config: Storage) -> dict[str, Any]:
    options: dict[str, Any] = {}
    match _PACKAGES.get(scheme):
        case "s3fs":
            waits = {"connect_timeout": config.timeout_seconds}
            options = {
                "anon": config.anon,
                "config_kwargs": {**waits, "read_timeout": config.timeout_seconds},
            }
            if config.region is not None:
                options["client_kwargs"] = {"region_name": config.region}
        case "gcsfs":
            options = {"token": "anon"} if config.anon else {}
        case "adlfs":
            options = {"anon": config.anon}
            if config.account_name is not None:
                options["account_name"] = config.account_name
    if config.endpoint_url is not None:
        if _PACKAGES.get(scheme) not in ("s3fs", "gcsfs"):
            raise DataError(
                f"storage.endpoint_url: is for s3:// and gs:// addresses, got {scheme}://"
            )
        options["endpoint_url"] = config.endpoint_url
    return options


def _entry(address: str, info: dict[str, Any]) -> Entry:
    is_folder = info.get("type") == "directory" or address.endswith("/")
    marks = (info.get(key) for key in ("ETag", "etag", "generation", "LastModified", "mtime"))
    changed = next((str(mark) for mark in marks if mark), "")
    return Entry(address, is_folder, 0 if is_folder else int(info.get("size") or 0), changed)


def _read_local(path: str, start: int, end: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(start)
        got = file.read(end - start)
    if len(got) < end - start:
        raise DataError(f"{path}: ends at byte {start + len(got):,}, expected {end:,}")
    return got


def _told(address: str, error: Exception, place: str = "") -> DataError:
    """The error in words."""
    where = f"{address}: " + (f"{place}: " if place else "")
    if isinstance(error, DataError):
        return error
    if isinstance(error, FileNotFoundError):
        return DataError(f"{where}is not there")
    if isinstance(error, PermissionError):
        if not is_url(address):
            return DataError(f"{where}may not be read or written")
        return DataError(
            f"{where}access is refused; credentials come from the environment, and public data "
            "need storage.anon: true"
        )
    if isinstance(error, TimeoutError) or type(error).__name__ == "FSTimeoutError":
        return DataError(f"{where}no answer in storage.timeout_seconds")
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{where}{error.strerror}")
    return DataError(f"{where}{_one_line(error)}")


def _one_line(error: Exception) -> str:
    """An error of another package without the credentials that it may repeat."""
    text = " ".join(f"{type(error).__name__} {error}".split())
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    text = _QUERY.sub("?***", text)
    return text if len(text) <= _SHOWN_ERROR else text[: _SHOWN_ERROR - 3] + "..."

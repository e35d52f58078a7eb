"""The file systems of stores, by the kind of their addresses."""

import functools
import importlib.util
import os
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from serving.base.storage.messages import StorageError, in_one_line, sends_whole_files

# Bytes of an answer of a web server where no range was asked for: its list of a folder, an error.
_MOST_PAGE_BYTES = 64 << 20
# Bytes of an answer that are read at a time.
_PART_BYTES = 1 << 16
_ASKED = re.compile(r"bytes=(\d+)-(\d+)")
_AZURE_SCHEMES = ("az", "abfs", "abfss")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_PACKAGES |= dict.fromkeys((*_AZURE_SCHEMES, "adl"), "adlfs")
_EXPECTED = "expected s3, gs, az, http, https or another kind that fsspec knows"


@dataclass(frozen=True)
class Access:
    """How stores are reached. What is left out comes from the environment, as credentials do.

    endpoint_url: address of an S3- or GCS-compatible store.
    region: of S3.
    account_name: of Azure.
    anon: asks without credentials.
    timeout_seconds: longest wait for one answer, of at most 8 MiB. Larger bears a slower store,
        smaller notices a dead one sooner.
    attempts: requests in a row that may fail.
    """

    endpoint_url: str | None = None
    region: str | None = None
    account_name: str | None = None
    anon: bool = False
    timeout_seconds: float = 60.0
    attempts: int = 6


def check_known(scheme: str, extras: str) -> None:
    """Raises StorageError for a kind of URL that nothing installed here can open."""
    try:
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise _missing(scheme, "fsspec", extras) from error
    known = known_implementations.get(scheme)
    if known is None:
        raise StorageError(f"{scheme}://: {_EXPECTED}")
    package = str(known["class"]).partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise _missing(scheme, package, extras)


def _missing(scheme: str, package: str, extras: str) -> StorageError:
    known = {"fsspec", *_PACKAGES.values()}
    where = f"'convserve[{extras}]'" if package in known else package
    return StorageError(
        f"{scheme}://: the package {package} is not installed; pip install {where} brings it"
    )


def file_system(scheme: str, access: Access, extras: str) -> Any:
    """fsspec's file system. Raises StorageError where its package, which `extras` bring, is
    missing, or fsspec knows none."""
    try:
        import fsspec

        given = {"use_listings_cache": False, "skip_instance_cache": True}
        given |= _options(scheme, access)
        if _PACKAGES.get(scheme) == "s3fs":
            return _s3(given)
        if scheme in _AZURE_SCHEMES:
            return _azure(given)
        if _PACKAGES.get(scheme) == "gcsfs" and (
            access.endpoint_url is not None or os.environ.get("STORAGE_EMULATOR_HOST")
        ):
            # By default gcsfs asks over gRPC for the kind of a bucket, a minute each: only Google's
            # own store answers.
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem(**given)
        return fsspec.filesystem(scheme, **given)
    except ImportError as error:
        raise _missing(scheme, _PACKAGES.get(scheme, error.name or "fsspec"), extras) from error
    except ValueError as error:
        raise StorageError(
            f"{scheme}://: cannot be opened: {in_one_line(error)}; {_EXPECTED}"
        ) from error


def _options(scheme: str, access: Access) -> dict[str, Any]:
    options: dict[str, Any] = {}
    match _PACKAGES.get(scheme):
        case "s3fs":
            waits = dict.fromkeys(("connect_timeout", "read_timeout"), access.timeout_seconds)
            options = {"config_kwargs": waits, **({"anon": True} if access.anon else {})}
            if access.region is not None:
                options["client_kwargs"] = {"region_name": access.region}
        case "gcsfs":
            options = {"token": "anon"} if access.anon else {}
            options["session_kwargs"] = {"response_class": _bounded_answer()}
        case "adlfs":
            options = {"anon": True} if access.anon else {}
            if access.account_name is not None:
                options["account_name"] = access.account_name
    if scheme in ("http", "https"):
        options = {"get_client": _web_client}
    if access.endpoint_url is not None:
        if _PACKAGES.get(scheme) not in ("s3fs", "gcsfs"):
            raise StorageError(
                f"storage.endpoint_url: is for s3:// and gs:// addresses, got {scheme}://"
            )
        options["endpoint_url"] = access.endpoint_url
    return options


async def _web_client(**options: Any) -> Any:
    """A session of aiohttp, for fsspec."""
    import aiohttp

    return aiohttp.ClientSession(response_class=_bounded_answer(), **options)


@functools.cache
def _bounded_answer() -> Any:
    """The class of answers of aiohttp that reads no more than was asked for."""
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                self._body = await self._bounded()
            return self._body

        async def _bounded(self) -> bytes:
            asked = _ASKED.fullmatch(self.request_info.headers.get("Range", ""))
            if self.status >= HTTPStatus.BAD_REQUEST:
                asked = None  # a page that says why
            start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, _MOST_PAGE_BYTES)
            got = bytearray()
            async for part in self.content.iter_chunked(_PART_BYTES):
                got += part
                if asked and (len(got) > end - start or (start and self.status == HTTPStatus.OK)):
                    raise sends_whole_files(str(self.url))
                if len(got) > end:
                    raise StorageError(f"{self.url}: a page of more than {end >> 20} MiB")
            return bytes(got)

    return Bounded


def _s3(options: dict[str, Any]) -> Any:
    """s3fs's file system, which reads no more of a range than was asked for."""
    from s3fs import S3FileSystem

    class Bounded(S3FileSystem):  # type: ignore[misc]
        async def _cat_file(self, path: str, start: int, end: int) -> bytes:
            bucket, key, _ = self.split_path(path)
            asked = f"bytes={start}-{end - 1}"
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, Range=asked)
            whole = answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.OK
            got = bytearray()
            try:
                async for part in answer["Body"].iter_chunks(_PART_BYTES):
                    got += part
                    if len(got) > end - start or (start and whole):
                        raise sends_whole_files(f"s3://{path}")
            finally:
                answer["Body"].close()
            return bytes(got)

    return Bounded(**options)


def _azure(options: dict[str, Any]) -> Any:
    """adlfs's file system, which refuses an answer that is longer than the range asked for before
    it reads it."""
    from adlfs import AzureBlobFileSystem

    def check(response: Any) -> None:
        answer = response.http_response
        asked = _ASKED.fullmatch(answer.request.headers.get("x-ms-range", ""))
        if asked is None or answer.status_code >= HTTPStatus.BAD_REQUEST:
            return
        length = answer.headers.get("Content-Length")  # which a server that cuts has to tell
        most = int(asked[2]) + 1 - int(asked[1])
        if "Content-Range" not in answer.headers or length is None or int(length) > most:
            raise sends_whole_files(answer.request.url)

    system = AzureBlobFileSystem(**options)
    # adlfs passes these on with each read and write.
    system._timeout_kwargs["raw_response_hook"] = check
    return system


# Files below a folder in one go: stores without real folders list a thousand by a request.


def lists_at_once(scheme: str) -> bool:
    """Whether `files_below` knows a kind of store."""
    return _PACKAGES.get(scheme) in _FILES_BELOW


async def files_below(scheme: str, system: Any, path: str, most: int) -> list[dict[str, Any]]:
    """The files below a folder of a store, as fsspec describes them. Raises StorageError where
    there are more than `most`."""
    found = await _FILES_BELOW[_PACKAGES[scheme]](system, path, most)
    if len(found) > most:
        raise StorageError(f"{scheme}://{path}: more than {most:,} files")
    return found


async def _s3_files(system: Any, path: str, most: int) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    bucket, key, _ = system.split_path(path)
    found: list[dict[str, Any]] = []
    try:
        async for info in system._iterdir(bucket, delimiter="", prefix=f"{key}/" if key else ""):
            found.append(info)
            if len(found) > most:
                break
    except ClientError as error:
        raise translate_boto_error(error) from error
    return found


async def _google_files(system: Any, path: str, most: int) -> list[dict[str, Any]]:
    found, _ = await system._do_list_objects(path, max_results=most + 1, delimiter="")
    return list(found)


async def _azure_files(system: Any, path: str, most: int) -> list[dict[str, Any]]:
    # Its package offers no bound; the time-out of a listing is one.
    return list((await system._find(path, detail=True)).values())


_FILES_BELOW = {"s3fs": _s3_files, "gcsfs": _google_files, "adlfs": _azure_files}

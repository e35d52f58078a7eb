"""The file systems of stores, by the kind of their addresses."""

import importlib.util
import inspect
import os
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from serving.base.storage.messages import StorageError, in_one_line, sends_whole_files

_AZURE_SCHEMES = ("az", "abfs", "abfss")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_PACKAGES |= dict.fromkeys(_AZURE_SCHEMES, "adlfs")
_WEB_SCHEMES = ("http", "https")
_EXPECTED = "expected s3, gs, az, http, https or another kind of store that fsspec knows"
# Kinds of fsspec that are no stores: they read through another kind, which an address would choose,
# or files of this machine; and one whose store is gone.
_NO_STORES = (
    "async_wrapper", "asyncwrapper", "asynclocal", "blockcache", "cached", "dask", "data", "dir",
    "filecache", "generic", "git", "libarchive", "pyscript", "reference", "simplecache", "tar",
    "zip", "adl",
)  # fmt: skip


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
    redirects: web servers may send on to other hosts, which get no headers of the environment.
    """

    endpoint_url: str | None = None
    region: str | None = None
    account_name: str | None = None
    anon: bool = False
    timeout_seconds: float = 60.0
    attempts: int = 6
    redirects: bool = True


def check_known(scheme: str, extras: str) -> None:
    """Raises StorageError for a kind of URL that nothing installed here can open."""
    try:
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise _missing(scheme, "fsspec", extras) from error
    known = known_implementations.get(scheme)
    if known is None or scheme in _NO_STORES:
        raise StorageError(f"{scheme}://: {_EXPECTED}")
    package = str(known["class"]).partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise _missing(scheme, package, extras)
    if scheme not in _PACKAGES and scheme not in _WEB_SCHEMES:
        _check_opens(scheme)


def _check_opens(scheme: str) -> None:
    """Raises StorageError for a kind of which an address does not say all that its package asks
    for, such as a host and its port."""
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise StorageError(f"{scheme}://: {in_one_line(error)}") from error
    _, *given = inspect.signature(kind.__init__).parameters.values()
    needed = [p.name for p in given if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise StorageError(f"{scheme}://: its package asks for {', '.join(needed)}; {_EXPECTED}")


def _missing(scheme: str, package: str, extras: str) -> StorageError:
    known = {"fsspec", *_PACKAGES.values()}
    where = f"'convserve[{extras}]'" if package in known else package
    return StorageError(
        f"{scheme}://: the package {package} is not installed; pip install {where} brings it"
    )


def file_system(scheme: str, access: Access, extras: str, writes: bool = False) -> Any:
    """fsspec's file system. Raises StorageError where its package, which `extras` bring, is
    missing, or fsspec knows none.

    writes: it is used to write, and not to read.
    """
    if scheme in _NO_STORES:
        raise StorageError(f"{scheme}://: {_EXPECTED}")
    try:
        import fsspec

        given: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        given |= _options(scheme, access)
        if _PACKAGES.get(scheme) == "s3fs":
            return _s3(given, access)
        if scheme in _AZURE_SCHEMES:
            from adlfs import AzureBlobFileSystem

            return AzureBlobFileSystem(**given) if writes else _azure(given)
        if scheme in _WEB_SCHEMES:
            return _web(given, access)
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
    except (TypeError, ValueError) as error:
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
            from serving.base.storage.web import session_options

            options["session_kwargs"] = session_options(redirects=access.redirects)
        case "adlfs":
            options = {"anon": True} if access.anon else {}
            if access.account_name is not None:
                options["account_name"] = access.account_name
    if access.endpoint_url is not None:
        if _PACKAGES.get(scheme) not in ("s3fs", "gcsfs"):
            raise StorageError(
                f"storage.endpoint_url: is for s3:// and gs:// addresses, got {scheme}://"
            )
        options["endpoint_url"] = access.endpoint_url
    return options


def _web(options: dict[str, Any], access: Access) -> Any:
    from serving.base.storage.web import WebFileSystem, web_session

    return WebFileSystem(get_client=partial(web_session, redirects=access.redirects), **options)


def _s3(options: dict[str, Any], access: Access) -> Any:
    """s3fs's file system, which reads no more of an answer than was asked for."""
    from aiobotocore.httpsession import AIOHTTPSession
    from botocore.exceptions import HTTPClientError
    from s3fs import S3FileSystem

    from serving.base.storage.web import PART_BYTES, Bounded, check_range, session_options

    class Session(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            if session._response_class is not Bounded:
                session._response_class = Bounded
                session.trace_configs.extend(
                    session_options(redirects=access.redirects)["trace_configs"]
                )
            return session

    class BoundedS3(S3FileSystem):  # type: ignore[misc]
        async def _call_s3(self, *args: Any, **given: Any) -> Any:
            try:
                return await super()._call_s3(*args, **given)
            except HTTPClientError as error:
                if isinstance(reason := error.kwargs.get("error"), StorageError):
                    raise reason from error
                raise

        async def _cat_file(self, path: str, start: int, end: int) -> bytes:
            bucket, key, _ = self.split_path(path)
            asked = f"bytes={start}-{end - 1}"
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, Range=asked)
            whole = answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.OK
            got = bytearray()
            try:
                check_range(f"s3://{path}", answer.get("ContentRange"), start)
                async for part in answer["Body"].iter_chunks(PART_BYTES):
                    got += part
                    if len(got) > end - start or (start and whole):
                        raise sends_whole_files(f"s3://{path}")
            finally:
                answer["Body"].close()
            return bytes(got)

    options["config_kwargs"]["http_session_cls"] = Session
    return BoundedS3(**options)


def _azure(options: dict[str, Any]) -> Any:
    """adlfs's file system, which refuses an answer that is longer than the range asked for before
    it reads it."""
    from adlfs import AzureBlobFileSystem

    from serving.base.storage.web import ASKED

    def check(response: Any) -> None:
        answer = response.http_response
        asked = ASKED.fullmatch(answer.request.headers.get("x-ms-range", ""))
        if asked is None or answer.status_code >= HTTPStatus.BAD_REQUEST:
            return
        length = answer.headers.get("Content-Length")  # which a server that cuts has to tell
        most = int(asked[2]) + 1 - int(asked[1])
        if "Content-Range" not in answer.headers or length is None or int(length) > most:
            raise sends_whole_files(answer.request.url)

    system = AzureBlobFileSystem(**options)
    # adlfs passes these on with each read, and with writes beside a hook of its own.
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
    from azure.core.exceptions import ResourceNotFoundError

    container, prefix, _ = system.split_path(f"{path.strip('/')}/")
    found: list[Any] = []
    try:
        async with system.service_client.get_container_client(container=container) as client:
            async for blob in client.list_blobs(include=["metadata"], name_starts_with=prefix):
                found.append(blob)
                if len(found) > most:
                    break
    except ResourceNotFoundError as error:
        raise FileNotFoundError(path) from error
    return list(await system._details(found))


_FILES_BELOW = {"s3fs": _s3_files, "gcsfs": _google_files, "adlfs": _azure_files}


# A page of such a listing, and the mark of the next one; None where it is the last.
Page = tuple[list[dict[str, Any]], str | None]


def lists_pages(scheme: str) -> bool:
    """Whether `page_below` knows a kind of store."""
    return _PACKAGES.get(scheme) in _PAGE_BELOW


async def page_below(scheme: str, system: Any, path: str, mark: str | None) -> Page:
    """A thousand files below a folder of a store, as fsspec describes them.

    mark: that of the page; None for the first one.
    """
    return await _PAGE_BELOW[_PACKAGES[scheme]](system, path, mark)


async def _s3_page(system: Any, path: str, mark: str | None) -> Page:
    bucket, key, _ = system.split_path(path)
    after = {} if mark is None else {"ContinuationToken": mark}
    prefix = f"{key.rstrip('/')}/" if key else ""
    page = await system._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **after)
    found = [
        {**info, "name": f"{bucket}/{info['Key']}", "size": info["Size"]}
        for info in page.get("Contents", ())
    ]
    return found, page["NextContinuationToken"] if page.get("IsTruncated") else None


async def _google_page(system: Any, path: str, mark: str | None) -> Page:
    bucket, key, _ = system.split_path(path)
    prefix = f"{key.rstrip('/')}/" if key else None
    page = await system._call_list_objects(bucket, delimiter="", prefix=prefix, pageToken=mark)
    found = [system._process_object(bucket, info) for info in page.get("items", ())]
    return found, page.get("nextPageToken")


_PAGE_BELOW = {"s3fs": _s3_page, "gcsfs": _google_page}

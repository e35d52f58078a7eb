"""The file systems of stores, by the kind of their addresses."""

import functools
import re
from http import HTTPStatus
from typing import Any

from training.data.storage.messages import in_one_line, sends_whole_files
from training.errors import DataError
from training.recipes.remote.storage import Storage

# Bytes of an answer of a web server where no range was asked for: its list of a folder, an error.
_MOST_PAGE_BYTES = 64 << 20
# Bytes of an answer that are read at a time.
_PART_BYTES = 1 << 16
_ASKED = re.compile(r"bytes=(\d+)-(\d+)")
_AZURE_SCHEMES = ("az", "abfs", "abfss")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_PACKAGES |= dict.fromkeys((*_AZURE_SCHEMES, "adl"), "adlfs")


def file_system(scheme: str, config: Storage) -> Any:
    """fsspec's file system. Raises DataError where its package is missing, or it knows none."""
    try:
        import fsspec

        given = {"use_listings_cache": False, "skip_instance_cache": True}
        given |= _options(scheme, config)
        if _PACKAGES.get(scheme) == "s3fs":
            return _s3(given)
        if scheme in _AZURE_SCHEMES:
            return _azure(given)
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
            f"{scheme}://: cannot be opened: {in_one_line(error)}; expected s3, gs, az, http, "
            "https or another kind that fsspec knows"
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
            options["session_kwargs"] = {"response_class": _bounded_answer()}
        case "adlfs":
            options = {"anon": config.anon}
            if config.account_name is not None:
                options["account_name"] = config.account_name
    if scheme in ("http", "https"):
        options = {"get_client": _web_client}
    if config.endpoint_url is not None:
        if _PACKAGES.get(scheme) not in ("s3fs", "gcsfs"):
            raise DataError(
                f"storage.endpoint_url: is for s3:// and gs:// addresses, got {scheme}://"
            )
        options["endpoint_url"] = config.endpoint_url
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
                    raise DataError(f"{self.url}: a page of more than {end >> 20} MiB")
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

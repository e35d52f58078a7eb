"""Web servers that show their folders, and what other stores share with them: answers are bounded,
and redirects lead to no other host unawares."""

import html
import re
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

import aiohttp
from fsspec.implementations.http import HTTPFileSystem, _file_info
from yarl import URL

from serving.base.errors import quoted
from serving.base.storage.messages import StorageError, sends_whole_files

# Bytes of an answer where no range was asked for: a list of a folder, an error.
_MOST_PAGE_BYTES = 64 << 20
# Entries of a folder. Each takes 0.5 KiB while the list is read.
_MOST_ENTRIES = 200_000
# Bytes of an answer that are read at a time.
PART_BYTES = 1 << 16
# The range that a request asks for.
ASKED = re.compile(r"bytes=(\d+)-(\d+)")
# A search takes time that grows with the page, whatever it holds: it has the GIL all the while.
_TAG = re.compile(r"<a\s[^>]{0,8192}", re.IGNORECASE)
_LINK = re.compile(r"""\shref\s{0,8}=\s{0,8}(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
# Answers to HEAD that say nothing of the file: of servers that know GET alone, and signed addresses
# that allow it alone.
_NO_HEAD = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

# Headers of a request that another host may see.
_HARMLESS = ("range", "accept", "accept-encoding", "user-agent")


class Bounded(aiohttp.ClientResponse):
    """An answer of which no more is read than was asked for."""

    async def read(self) -> bytes:
        if self._body is None:
            try:
                self._body = await self._bounded()
            except BaseException:
                self.close()
                raise
        return self._body

    async def _bounded(self) -> bytes:
        asked = ASKED.fullmatch(self.request_info.headers.get("Range", ""))
        if self.status >= HTTPStatus.BAD_REQUEST:
            asked = None  # a page that says why
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, _MOST_PAGE_BYTES)
        if asked:
            check_range(str(self.url), self.headers.get("Content-Range"), start)
        got = bytearray()
        async for part in self.content.iter_chunked(PART_BYTES):
            got += part
            if asked and (len(got) > end - start or (start and self.status == HTTPStatus.OK)):
                raise sends_whole_files(str(self.url))
            if len(got) > end:
                raise StorageError(f"{self.url}: a page of more than {end >> 20} MiB")
        return bytes(got)


def check_range(address: str, told: str | None, start: int) -> None:
    """Raises StorageError where an answer tells that it holds other bytes than those from `start`.

    told: its Content-Range; None where it has none.
    """
    if told is not None and not told.startswith(f"bytes {start}-"):
        raise StorageError(
            f"{address}: its server sends {quoted(told)}, expected bytes from {start:,}"
        )


def session_options(*, redirects: bool) -> dict[str, Any]:
    """Options of aiohttp's sessions. redirects: as Access has it."""
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(partial(_redirected, redirects))
    trace.freeze()
    return {"response_class": Bounded, "trace_configs": [trace]}


async def web_session(*, redirects: bool, **options: Any) -> aiohttp.ClientSession:
    """A session for fsspec's file system of web servers."""
    return aiohttp.ClientSession(**session_options(redirects=redirects), **options)


async def _redirected(redirects: bool, *given: Any) -> None:
    """Called before a redirect is followed. Raises StorageError for one to another host that may
    not be; else that host gets none of the headers that may hold credentials."""
    step = given[-1]  # after the session and a context
    answer = step.response
    place = answer.headers.get("Location") or answer.headers.get("URI") or ""
    try:
        there = step.url.join(URL(place))
        shown = str(there.origin())
    except ValueError:
        return  # aiohttp refuses what is no address
    if there.origin() == step.url.origin():
        return
    if there.host == step.url.host and (there.scheme, there.port) == ("https", 443):
        return
    if not redirects:
        answer.close()
        raise StorageError(f"{step.url}: its server sends on to {quoted(shown)}, another one")
    for name in {name for name in step.headers if name.lower() not in _HARMLESS}:
        step.headers.popall(name, None)


class WebFileSystem(HTTPFileSystem):  # type: ignore[misc]
    """fsspec's file system of web servers, with lists in bounded time and errors as they are."""

    async def _ls(self, url: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        session = await self.set_session()
        async with session.get(self.encode_url(f"{url.rstrip('/')}/"), **self.kwargs) as answer:
            self._raise_not_found_for_status(answer, url)
            page = (await answer.read()).decode(errors="replace")
        return [
            {"name": name, "size": None, "type": "directory" if name.endswith("/") else "file"}
            for name in entries(page, url)
        ]

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        session = await self.set_session()
        info: dict[str, Any] = {}
        for policy in ("head", "get"):
            try:
                info |= await _file_info(self.encode_url(url), session, policy, **self.kwargs)
            except aiohttp.ClientResponseError as error:
                if policy == "get" or error.status not in _NO_HEAD:
                    raise _of_status(error, url) from error
            if info.get("size") is not None:
                break
        return {"name": url, "size": None, **info, "type": "file"}

    def _raise_not_found_for_status(self, response: aiohttp.ClientResponse, url: str) -> None:
        try:
            response.raise_for_status()
        except aiohttp.ClientResponseError as error:
            raise _of_status(error, url) from error


def _of_status(error: aiohttp.ClientResponseError, url: str) -> Exception:
    match error.status:
        case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
            return FileNotFoundError(url)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return PermissionError(url)
    return error


def entries(page: str, folder: str) -> list[str]:
    """The addresses of a folder's entries in the page that a web server shows of it; those of
    folders end with a slash. Links to elsewhere are passed over. Raises StorageError where there
    are too many."""
    base = f"{folder.rstrip('/')}/"
    found: dict[str, None] = {}
    for tag in _TAG.finditer(page):
        link = _LINK.search(tag[0])
        if link is None:
            continue
        try:
            place = urljoin(base, html.unescape(link[1] or link[2] or ""))
        except ValueError:
            continue
        name = place.removeprefix(base).removesuffix("/")
        if place.startswith(base) and name and not {"/", "?", "#"} & set(name):
            found[place] = None
            if len(found) > _MOST_ENTRIES:
                raise StorageError(f"{base}: a folder of more than {_MOST_ENTRIES:,} entries")
    return list(found)

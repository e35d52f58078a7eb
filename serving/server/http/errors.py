"""Every failure over HTTP as {"error": ...}, and bodies as bytes."""

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from aiohttp import web

from serving.base.errors import RequestTooLarge, ServingError, quoted
from serving.server.endpoints.error_status import message_of, retry_after, status_of
from serving.server.http.compression import decompressed

logger = logging.getLogger(__name__)

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def _answered(handle: _Handle, request: web.BaseRequest) -> web.StreamResponse:
    """The answer of the application. Failures are those of our handlers and of aiohttp's: no such
    path, no such method, an expectation that it does not know."""
    try:
        return await handle(request)
    except ServingError as error:
        response = _failure(error)
    except web.HTTPException as error:
        response = web.json_response({"error": error.reason}, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except Exception:
        logger.exception("request failed", extra={"path": request.path})
        response = _failure(ServingError("internal error; the server's log says more"))
    if request.content.exception() is not None:
        # Nobody knows where the next request begins: the caller is told to connect anew, and
        # aiohttp that there is no rest of the body to wait for.
        response.force_close()
        request.content.feed_eof()
    return response


class _Connection(web.RequestHandler):
    """A connection that also answers requests that never reach a route: lines that are too long,
    codings that are not there, bytes that are no HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that cannot be read; the connection closes after it."""
        if status >= 500:
            logger.error("request failed", exc_info=exc)
        said = quoted((message or "").strip() or HTTPStatus(status).phrase)
        response = web.json_response({"error": f"not an HTTP request: {said}"}, status=status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs what goes wrong between requests; a bad body that no route has read is its
        caller's mistake, and closing the connection is all that is left to do."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)


class _Server(web.Server):
    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)


class JsonRunner(web.AppRunner):
    """Runs an application on connections that answer every failure as {"error": ...}. aiohttp has
    no public way to choose their class."""

    __slots__ = ()

    async def _make_server(self) -> _Server:
        made = await super()._make_server()
        handle = partial(_answered, made.request_handler)
        factory = made.request_factory
        settings = made._kwargs | {"auto_decompress": False}  # read_body does it
        return _Server(handle, request_factory=factory, loop=made._loop, **settings)


async def read_body(request: web.Request, limit: int | None = None) -> bytes:
    """The whole body, decompressed, of up to `limit` bytes. Raises RequestTooLarge, InvalidInput,
    and what reading raises."""
    most = request.client_max_size if limit is None else min(limit, request.client_max_size)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise RequestTooLarge(error.text or error.reason) from error
    coding = request.headers.get("Content-Encoding")
    whole = body if coding is None else decompressed(body, coding, most)
    if len(whole) > most:
        raise RequestTooLarge(f"body: more than {most} bytes")
    return whole


def _failure(error: ServingError) -> web.Response:
    response = web.json_response({"error": message_of(error)}, status=status_of(error).http)
    seconds = retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response

"""Every failure over HTTP as {"error": ...}, and bodies as bytes."""

import logging
import math

from aiohttp import web
from aiohttp.typedefs import Handler

from serving.base.errors import RequestTooLarge, ServingError
from serving.server.endpoints.status import message_of, retry_after, status_of

logger = logging.getLogger(__name__)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers failures of the handlers, and those of aiohttp: no such path, no such method."""
    try:
        return await handler(request)
    except ServingError as error:
        return _failure(error)
    except web.HTTPException as error:
        response = web.json_response({"error": error.reason}, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:
        logger.exception("request failed", extra={"path": request.path})
        return _failure(ServingError("internal error; the server's log says more"))


async def read_body(request: web.Request) -> bytes:
    """The whole body, decompressed. Raises RequestTooLarge, and what reading raises."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise RequestTooLarge(error.text or error.reason) from error


def _failure(error: ServingError) -> web.Response:
    response = web.json_response({"error": message_of(error)}, status=status_of(error).http)
    seconds = retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response

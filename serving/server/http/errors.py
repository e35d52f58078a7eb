"""Every failure over HTTP as {"error": ...}."""

import logging
import math
from http import HTTPStatus

from aiohttp import web

from serving.base.errors import ServingError, Unauthenticated, quoted
from serving.server.error_status import message_of, retry_after, status_of

logger = logging.getLogger(__name__)

# RFC 9110 wants a challenge with every 401. API keys and certificates have no scheme of their own.
_CHALLENGE = 'Bearer realm="convserve"'


def failure(error: Exception, path: str) -> web.Response:
    """The answer to a request whose handler raised. Failures are those of our handlers and of
    aiohttp's: no such path, no such method, an expectation that it does not know."""
    if isinstance(error, web.HTTPException):
        response = web.json_response({"error": error.reason}, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    if not isinstance(error, ServingError):
        logger.error("request failed", exc_info=error, extra={"path": path[:200]})
        error = ServingError("internal error; the server's log says more")
    response = web.json_response({"error": message_of(error)}, status=status_of(error).http)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = _CHALLENGE
    seconds = retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response


def malformed(status: int, message: str | None, error: BaseException | None) -> web.Response:
    """The answer to what is no request; the connection closes after it."""
    if status >= 500:
        logger.error("request failed", exc_info=error)
    said = quoted((message or "").strip() or HTTPStatus(status).phrase)
    response = web.json_response({"error": f"not an HTTP request: {said}"}, status=status)
    response.force_close()
    return response

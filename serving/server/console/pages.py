"""The files of the console. They hold no data: each page asks the API for its own, as its reader,
with his identity and his rights."""

import hashlib
from importlib import resources

from aiohttp import web

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Scripts and styles come from files of this server alone, and nothing goes to another one. Browsers
# that know trusted types let no script make HTML of a text: names of models and classes stay texts.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    # Kept, and asked for again each time by the ETag: an upgraded server is not shown by old files.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def add_console(app: web.Application) -> None:
    """Adds `/`, and each file below `/console/`. They are read here, once: no path of a caller's is
    ever opened."""
    for file in resources.files(__package__).joinpath("static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        kind = _TYPES.get(suffix)
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/console/{file.name}"
            app.router.add_get(path, _File(file.read_bytes(), kind).answer)


class _File:
    """A file as it is sent."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        self._kind = kind
        self._tag = hashlib.sha256(content).hexdigest()[:32]

    async def answer(self, request: web.Request) -> web.Response:
        """The file, or 304 where the browser has it."""
        known = request.if_none_match or ()
        if any(tag.value == self._tag for tag in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(
                body=self._content, content_type=self._kind, charset="utf-8", headers=_HEADERS
            )
        response.etag = self._tag
        return response

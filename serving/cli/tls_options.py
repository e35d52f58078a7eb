"""The options of TLS that every command has which calls a server."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.client.tls import BadTls, ClientTls

_PANEL = "TLS"


def _option(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    option = Annotated[kind, typer.Option(help=text, rich_help_panel=_PANEL)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option
    )


_OPTIONS = (
    _option("tls", bool, False, "Call the server by TLS; so do grpcs:// and https://."),
    _option("tls_ca", Path | None, None, "PEM file of the server's authorities."),
    _option("tls_cert", Path | None, None, "PEM file of the client's certificate."),
    _option("tls_key", Path | None, None, "PEM file of its key."),
    _option("tls_server_name", str, "", "Name that the server's certificate must have."),
)


def with_tls(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options, which it gets together as its keyword `tls`: a ClientTls, or
    None where none of them is given."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        on = given.pop("tls")
        files = {name: given.pop(f"tls_{name}") for name in ("ca", "cert", "key", "server_name")}
        tls = ClientTls(**files) if on or any(files.values()) else None
        if tls is not None:
            try:
                tls.context()
            except BadTls as error:
                raise typer.BadParameter(str(error)) from error
            url = str(given.get("url") or "")
            if url.startswith(("http://", "grpc://")):
                raise typer.BadParameter(f"{url}: the options of TLS want https:// or grpcs://")
        command(**given, tls=tls)

    signature = inspect.signature(command)
    kept = [one for one in signature.parameters.values() if one.name != "tls"]
    run.__signature__ = signature.replace(parameters=[*kept, *_OPTIONS])  # type: ignore[attr-defined]
    return run

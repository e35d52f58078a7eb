"""`convserve serve`."""

import json
import logging
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from serving.cli.output import application, fail
from serving.server.config import ConfigError, ServerConfig, load_config
from serving.server.server import Server, StartError

# What logging itself puts on a record; anything else was given as `extra`.
_RECORD_FIELDS = set(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


class ModelControl(StrEnum):
    """Who decides which models are loaded."""

    NONE = "none"
    EXPLICIT = "explicit"
    POLL = "poll"


def _help(name: str) -> str:
    field = ServerConfig.model_fields[name]
    return f"{field.description} [default: {field.default}]"


def serve(
    model_repository: Annotated[
        Path | None, typer.Option(help="Folder with one folder a model.")
    ] = None,
    host: Annotated[str | None, typer.Option(help=_help("host"))] = None,
    grpc_port: Annotated[int | None, typer.Option(help=_help("grpc_port"))] = None,
    http_port: Annotated[int | None, typer.Option(help=_help("http_port"))] = None,
    metrics_port: Annotated[int | None, typer.Option(help=_help("metrics_port"))] = None,
    model_control: Annotated[ModelControl | None, typer.Option(help=_help("model_control"))] = None,
    poll_seconds: Annotated[float | None, typer.Option(help=_help("poll_seconds"))] = None,
    engine: Annotated[str | None, typer.Option(help=_help("engine"))] = None,
    variant: Annotated[str | None, typer.Option(help=_help("variant"))] = None,
    cache_dir: Annotated[Path | None, typer.Option(help=_help("cache_dir"))] = None,
    build_plans: Annotated[bool | None, typer.Option(help=_help("build_plans"))] = None,
    hardware_decode: Annotated[bool | None, typer.Option(help=_help("hardware_decode"))] = None,
    drain_seconds: Annotated[float | None, typer.Option(help=_help("drain_seconds"))] = None,
    allow_ungated: Annotated[bool | None, typer.Option(help=_help("allow_ungated"))] = None,
    allow_admin: Annotated[bool | None, typer.Option(help=_help("allow_admin"))] = None,
    strict_readiness: Annotated[bool | None, typer.Option(help=_help("strict_readiness"))] = None,
    max_connection_age_seconds: Annotated[
        float | None, typer.Option(help=_help("max_connection_age_seconds"))
    ] = None,
    slow_request_ms: Annotated[float | None, typer.Option(help=_help("slow_request_ms"))] = None,
    threads: Annotated[int | None, typer.Option(help=_help("threads"))] = None,
    max_image_pixels: Annotated[int | None, typer.Option(help=_help("max_image_pixels"))] = None,
    max_message_mib: Annotated[int | None, typer.Option(help=_help("max_message_mib"))] = None,
    max_inflight_mib: Annotated[int | None, typer.Option(help=_help("max_inflight_mib"))] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these.")] = None,
) -> None:
    """Serve the models of a repository. Every option is also CONVSERVE_NAME in the environment."""
    flags = dict(locals())
    file = flags.pop("config")
    try:
        settings = load_config(flags, file=file)
    except ConfigError as error:
        fail(str(error))
    _log_as_json()
    try:
        uvloop.run(Server(settings).serve())
    except StartError as error:
        fail(str(error))


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what was given as extra, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _RECORD_FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


app = application(serve)

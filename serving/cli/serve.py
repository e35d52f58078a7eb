"""`convserve serve`."""

import contextlib
import inspect
import json
import logging
import os
import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, get_args, get_origin

import typer
import uvloop

from serving.base.command import WRONG_USAGE, AsJson, application, one_of
from serving.base.machine import console
from serving.base.machine.terminal import is_quiet, json_text
from serving.cli.output import fail, warn
from serving.server.access.audit import open_audit
from serving.server.config import ServerConfig, StartError
from serving.server.config_sources import ConfigError, load_config
from serving.server.server import Server
from serving.server.wires import Addresses

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Fields that logging itself puts on a record; all others come from `extra`.
_RECORD_FIELDS = set(vars(logging.makeLogRecord({}))) | {"message", "taskName"}
# Tracebacks a minute in the log, characters of one, and of a message. Less leaves out what a fault
# needs to be found, more lets a caller who causes one write more of the log.
_TRACEBACKS = 20
_TRACEBACK_LENGTH = 8000
_MESSAGE_LENGTH = 2000
# Lines that wait for whoever reads the log, some 300 bytes each. More bridge a longer pause of his,
# and take more memory.
_WAITING = 1000
# Seconds that the end of the server waits for them.
_FLUSH_SECONDS = 1.0


def serve(context: typer.Context, **_: Any) -> None:
    """Serve the models of a repository. Every option is also CONVSERVE_NAME in the environment."""
    given = {
        name: context.params[name]
        for name in ServerConfig.model_fields
        if _on_the_command_line(context, name)
    }
    try:
        settings = load_config(given, file=context.params["config"])
    except ConfigError as error:
        warn(str(error))
        raise typer.Exit(WRONG_USAGE) from error
    results = os.dup(1)  # what else is printed becomes lines of the log
    told = partial(_tell, results, settings) if context.params["as_json"] else None
    try:
        with console.logged() as stderr:
            _log_as_json(stderr)
            uvloop.run(Server(settings).serve(told))
    except StartError as error:
        fail(str(error))
    finally:
        os.close(results)


def _tell(stdout: int, settings: ServerConfig, addresses: Addresses) -> None:
    """Prints where the server listens. Whoever wanted to read it may have gone."""
    document = {
        "host": settings.host,
        "grpc_port": addresses.grpc,
        "http_port": addresses.http,
        "metrics_port": addresses.metrics,
        "tls": settings.tls_cert is not None,
    }
    with contextlib.suppress(OSError):
        os.write(stdout, f"{json_text(document)}\n".encode())


def _signature() -> inspect.Signature:
    """The parameters of `serve`, from which typer makes the options: every setting, with the
    default that --help shows, and the file."""
    options = [
        # A setting that is required may come from the environment or the file.
        _option(name, field.annotation, field.description, field.default)
        if not field.is_required()
        else _option(name, list[str] | None, field.description, None)
        for name, field in ServerConfig.model_fields.items()
    ]
    file = _option("config", Path | None, "YAML file with any of these.", None)
    context = inspect.Parameter("context", _KEYWORD, annotation=typer.Context)
    as_json = inspect.Parameter("as_json", _KEYWORD, default=False, annotation=AsJson)
    return inspect.Signature([context, *options, file, as_json])


def _option(name: str, kind: Any, text: str | None, default: Any) -> inspect.Parameter:
    option: Any = Annotated[kind, typer.Option(help=text)]
    if get_origin(kind) is Literal:
        # typer words a wrong choice as pydantic does.
        words, flag = get_args(kind), f"--{name.replace('_', '-')}"
        chosen = typer.Option(
            help=text, metavar="|".join(words), parser=lambda word: one_of(word, words, flag)
        )
        option = Annotated[str, chosen]
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=option)


def _on_the_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class _Handler(logging.Handler):
    """Writes lines in a thread of its own: whoever reads them may stop, and the server must not.

    A line that finds no place, or cannot be written, is lost; the next one is preceded by a line
    that says how many were.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.setFormatter(_JsonFormatter())
        self._stream = stream
        self._waiting: queue.Queue[str | threading.Event] = queue.Queue(_WAITING)
        self._lost = 0
        # A daemon: it may wait for a reader for ever.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks, and raises nothing."""
        try:
            if self._lost:
                self._waiting.put_nowait(self.format(_told_lost(self._lost)))
                self._lost = 0
            self._waiting.put_nowait(self.format(record))
        except Exception:  # Full; or a record that cannot be formatted, as logging treats it.
            self._lost += 1

    def flush(self) -> None:
        """Waits until the lines so far are written, a moment at most: logging does so at the end of
        the process."""
        written = threading.Event()
        with contextlib.suppress(queue.Full):
            self._waiting.put(written, timeout=_FLUSH_SECONDS)
            written.wait(_FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            line = self._waiting.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            # An error about a line that cannot be written would itself have to be logged.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(line + "\n")
                self._stream.flush()


def _told_lost(number: int) -> logging.LogRecord:
    level = logging.ERROR
    fields = {"name": "log", "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord({**fields, "msg": "lines of the log lost", "number": number})


def _log_as_json(stream: TextIO) -> None:
    handler = _Handler(stream)
    level = logging.WARNING if is_quiet() else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    open_audit(handler)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields of `extra`, traceback.

    Tracebacks are few and short: a fault that callers know how to cause must not fill the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        # When the minute began whose tracebacks are counted, in seconds since 1970.
        self._minute = 0.0
        self._tracebacks = 0

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MESSAGE_LENGTH],
        }
        line |= {k: v for k, v in vars(record).items() if k not in _RECORD_FIELDS}
        if record.exc_info:
            line["traceback"] = self._traceback(record, record.exc_info)
        return json.dumps(line, default=str)

    def _traceback(self, record: logging.LogRecord, error: Any) -> str:
        if record.created - self._minute >= 60:
            self._minute, self._tracebacks = record.created, 0
        self._tracebacks += 1
        if self._tracebacks > _TRACEBACKS:
            return f"left out: the minute has had {_TRACEBACKS}"
        text = self.formatException(error)
        return text if len(text) <= _TRACEBACK_LENGTH else "... " + text[-_TRACEBACK_LENGTH:]


serve.__signature__ = _signature()  # type: ignore[attr-defined]
app = application(serve)

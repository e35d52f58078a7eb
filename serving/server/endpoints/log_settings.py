"""The protocol's log settings, carried out on Python's logging.

They govern the log file. The log of the operator, on stderr, loses nothing by a call: it only gets
more lines, with a verbose level.
"""

import asyncio
import logging
from collections.abc import Mapping

from serving.base.counting.sums import Tally
from serving.base.errors import InvalidInput
from serving.server.endpoints.file_writer import FilesFolder, FileWriter

Setting = bool | int | str

_DEFAULTS: dict[str, Setting] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
_FORMATS = ("default", "ISO8601")
# The setting that lets lines into the file, from the level on, most severe first.
_SETTINGS = (
    (logging.ERROR, "log_error"),
    (logging.WARNING, "log_warning"),
    (logging.NOTSET, "log_info"),
)
# How every line of the log begins, and so every log file.
_BEGINS = b'{"time": "'


class LogSettings:
    """The settings as they stand. `log_file` gets the lines of the log beside stderr; the lines
    that it cannot take are counted in `write_failures`."""

    def __init__(self, folder: FilesFolder, write_failures: Tally) -> None:
        self._values = dict(_DEFAULTS)
        self._folder = folder
        self._writer = FileWriter("log", folder, _BEGINS, write_failures)
        self._level = logging.getLogger().level
        self._handler: logging.Handler | None = None

    def read(self) -> dict[str, Setting]:
        """All settings as they stand."""
        return dict(self._values)

    async def update(self, changes: Mapping[str, Setting]) -> None:
        """Changes those that are named. Raises InvalidInput for an unknown one, a wrong type, or a
        file that cannot be written; then nothing is changed."""
        for name, value in changes.items():
            if name not in _DEFAULTS:
                raise InvalidInput(
                    f"log setting {name!r:.200}: expected one of {sorted(_DEFAULTS)}"
                )
            if type(value) is not type(_DEFAULTS[name]):
                expected = type(_DEFAULTS[name]).__name__
                raise InvalidInput(f"log setting {name!r}: expected {expected}, got {value!r:.200}")
        log_format = changes.get("log_format", "default")
        if log_format not in _FORMATS:
            raise InvalidInput(
                f"log setting 'log_format': expected default or ISO8601, got {log_format!r:.200}"
            )
        level = changes.get("log_verbose_level", 0)
        if not 0 <= int(level) < 1 << 32:
            raise InvalidInput(
                f"log setting 'log_verbose_level': expected 0 to {(1 << 32) - 1}, got {level!s:.40}"
            )
        file = str(changes.get("log_file", ""))
        self._folder.check_name("log setting 'log_file'", file)
        reason = await asyncio.to_thread(self._writer.check, file) if file else ""
        if reason:
            raise InvalidInput(f"log setting 'log_file': {file} cannot be written: {reason}")
        if "log_file" in changes:
            self._write_to(file)
        self._values |= changes
        verbose = bool(self._values["log_verbose_level"])
        logging.getLogger().setLevel(logging.DEBUG if verbose else self._level)

    def wait(self, seconds: float) -> None:
        """Returns when the lines so far are in the log file, or after so many seconds."""
        self._writer.wait(seconds)

    def _takes(self, record: logging.LogRecord) -> bool:
        """Whether a line goes into the file."""
        setting = next(name for level, name in _SETTINGS if record.levelno >= level)
        return bool(self._values[setting])

    def _write_to(self, file: str) -> None:
        """Also logs into a file; none where the name is empty."""
        root = logging.getLogger()
        if self._handler is not None:
            root.removeHandler(self._handler)
            self._handler = None
        if file:
            self._handler = _FileHandler(file, self._writer)
            self._handler.addFilter(self._takes)
            if root.handlers:
                self._handler.setFormatter(root.handlers[0].formatter)
            root.addHandler(self._handler)


class _FileHandler(logging.Handler):
    """Hands each line to the writer, which opens the file anew: rotating it needs no signal."""

    def __init__(self, file: str, writer: FileWriter) -> None:
        super().__init__()
        self._file = file
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks, and raises nothing."""
        try:
            line = self.format(record)
        except Exception:  # A record whose text does not fit its arguments, as logging treats it.
            self.handleError(record)
        else:
            self._writer.write(self._file, (line, "\n"), append=True)

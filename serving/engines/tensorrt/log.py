"""TensorRT's log, and the versions of it that are supported."""

import logging
import threading
from collections import deque

import tensorrt

from serving.base.errors import EngineUnavailable

log = logging.getLogger(__name__)

MAJOR_VERSIONS = (10, 11)
# Errors that an error message repeats: the last ones name the cause, more make it longer.
_KEPT_PROBLEMS = 8
_PROBLEMS = (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR)


class Log(tensorrt.ILogger):  # type: ignore[misc]
    """Keeps the last errors, for the text of a failure, and with `keep_all` every line.

    TensorRT calls it from threads of its own.
    """

    def __init__(self, keep_all: bool = False) -> None:
        tensorrt.ILogger.__init__(self)
        self._lock = threading.Lock()
        self._problems: deque[str] = deque(maxlen=_KEPT_PROBLEMS)
        self._keep_all = keep_all
        self.lines: list[str] = []

    def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
        """Takes one message."""
        with self._lock:
            if self._keep_all and severity != tensorrt.ILogger.VERBOSE:
                self.lines.append(f"{severity.name.lower()}: {msg}")
            if severity in _PROBLEMS:
                self._problems.append(msg)

    def problems(self) -> str:
        """The errors since the last call, in one line."""
        with self._lock:
            text = "; ".join(" ".join(message.split()) for message in self._problems)
            self._problems.clear()
        return text or "it gave no reason"


def check_version(version: str) -> None:
    """Raises EngineUnavailable for a version of TensorRT that is not supported."""
    if int(version.split(".")[0]) not in MAJOR_VERSIONS:
        known = " and ".join(f"{major}.x" for major in MAJOR_VERSIONS)
        raise EngineUnavailable(f"TensorRT {version} is not known here, only {known}")

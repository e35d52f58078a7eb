"""Runs work in a process of its own, which confines its memory and its crashes.

The request goes to the helper's stdin. Its stdout brings JSON, one object a line: `log` (a line for
this process's log), `at` (the work under way), and at last `result` or `error`. Everything that a
runtime prints goes to stderr. A ModelLoadError there is raised here as the same class; any other
end of the helper raises HelperFailed. Its lines are checked: it reads files of others.
"""

import importlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

from serving.base import log_lines
from serving.base.errors import ModelLoadError, ServingError, Told, quoted, restored, told
from serving.base.machine.children import end_with_parent, go_first, how_it_ended
from serving.base.machine.memory import free_memory

logger = logging.getLogger(__name__)

# The functions that a request may call, by name. Each takes the request's fields as keywords and
# returns a value that JSON can hold.
TASKS = {
    "choose": "serving.models.loading.loader_process:choose",
    "describe": "serving.models.loading.loader_process:describe",
    "plans": "serving.models.loading.plan_builder:build_plans",
}

# The helper uses this process's sys.path. -I: until then it looks into no folder that the
# environment or the place where it is started names, and a module there cannot take a name's place.
_START = (
    "import json, os, sys; os.nice(int(sys.argv[2])); sys.path[:] = json.loads(sys.argv[1]); "
    "from serving.models.loading.helper import main; main()"
)
# Niceness of a helper with bounds, the lowest there is. It still gets a hundredth of a core that
# another thread wants whole (the weights are 15 and 1,024), so that a load ends on a machine
# without idle time. SCHED_IDLE would get a fifth of that (3): a load of 5 s might take half an
# hour.
_LOWEST = 19
# Seconds between two looks at a helper's time and memory. Less sees sooner that memory runs short,
# and takes more of the CPU: a look takes 0.1 ms.
_LOOK_SECONDS = 0.02
# Bytes of a line of its answers, of the end of everything that it printed, and log lines.
_LINE_BYTES = 4 << 20
_PRINTED_BYTES = 16 << 10
_LOG_LINES = 1000


class HelperFailed(Exception):
    """A helper that could not be started, or ended without an answer. The text is one line.

    detail: everything that it printed.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


@dataclass(frozen=True)
class Bounds:
    """The bounds of a helper, which then runs at the lowest priority.

    seconds: after which it is ended.
    spare_bytes: memory of this machine or container that has to stay free, whoever takes it.
    """

    seconds: float
    spare_bytes: int


class Helper:
    """One request to a helper."""

    def __init__(self, task: str, bounds: Bounds | None = None, **request: Any) -> None:
        """`request` holds the keywords of the task; paths may stand for their text."""
        self._task = task
        self._bounds = bounds
        level = logging.getLogger().level
        asked = {"task": task, "log_level": level, "request": request}
        self._request = json.dumps(asked, default=str).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._at = ""
        self._logged = 0
        self._answer: dict[str, Any] | None = None

    def run(self) -> Any:
        """The answer. Blocking. Raises HelperFailed, or the ModelLoadError that the task raised."""
        path = json.dumps([entry for entry in sys.path if entry])
        nice = str(_LOWEST if self._bounds is not None else 0)
        with tempfile.TemporaryFile() as request:  # a pipe would wait for a reader
            request.write(self._request)
            request.seek(0)
            try:
                self._process = process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, path, nice, str(os.getpid())],
                    stdin=request,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            except OSError as error:
                raise HelperFailed(f"it cannot be started: {error}") from error
        logger.info("helper process", extra={"task": self._task, "pid": process.pid})
        with process:  # closes its pipes
            try:
                if self._killed:
                    process.kill()
                printed = self._listen(process)
            finally:
                process.kill()  # with its answer it is done, whatever a runtime does at its end
                process.wait()
        if self._answer is None:
            raise HelperFailed(self._reason(process.returncode, printed), printed)
        if "error" in self._answer:
            raise self._error(self._answer["error"])
        if printed.strip():
            logger.info("helper printed", extra={"task": self._task, "printed": printed})
        return self._answer.get("result")

    def kill(self) -> None:
        """Ends the process, from any thread; `run` then raises HelperFailed."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def _listen(self, process: subprocess.Popen[bytes]) -> str:
        """Takes its lines until it has answered or ended; the end of the text that it printed.
        Raises HelperFailed where it breaks its bounds."""
        assert process.stdout is not None
        assert process.stderr is not None
        end = time.monotonic() + self._bounds.seconds if self._bounds else float("inf")
        look = _LOOK_SECONDS if self._bounds else None
        begun, printed = b"", b""
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                selector.register(stream, selectors.EVENT_READ)
            answers = True
            while answers and self._answer is None:
                for key, _ in selector.select(look):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                        answers = answers and key.fileobj is not process.stdout
                    elif key.fileobj is process.stderr:
                        printed = (printed + data)[-_PRINTED_BYTES:]
                    else:
                        *lines, begun = (begun + data).split(b"\n")
                        for line in lines:
                            self._take(line)
                        if len(begun) > _LINE_BYTES:
                            raise HelperFailed(f"it sent a line of over {_LINE_BYTES:,} bytes")
                self._check(end)
        process.kill()
        os.set_blocking(process.stderr.fileno(), False)
        printed += process.stderr.read(_PRINTED_BYTES) or b""
        return printed[-_PRINTED_BYTES:].decode(errors="replace")

    def _take(self, line: bytes) -> None:
        """Takes one line of the helper. Raises HelperFailed where it is none."""
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(type(message))
            if "log" in message:
                self._logged += 1
                if self._logged <= _LOG_LINES:
                    log_lines.write(message["log"])
            elif "at" in message:
                self._at = str(message["at"])
            elif "result" in message or "error" in message:
                self._answer = message
        except (ValueError, TypeError, RecursionError) as error:
            raise HelperFailed(f"it sent a line that cannot be read: {quoted(line)}") from error

    def _check(self, end: float) -> None:
        if self._bounds is None:
            return
        if time.monotonic() > end:
            raise HelperFailed(self._where(f"it was not done after {self._bounds.seconds:g} s"))
        left = free_memory()
        if left < self._bounds.spare_bytes:
            raise HelperFailed(self._where(f"memory ran short: {left:,} bytes were still free"))

    def _error(self, fields: Any) -> ModelLoadError | HelperFailed:
        try:
            code, text, _, detail = map(str, fields)
        except (TypeError, ValueError):
            return HelperFailed(f"it sent an error that cannot be read: {quoted(fields)}")
        error = restored(Told(code, text, None, detail))
        return error if isinstance(error, ModelLoadError) else HelperFailed(text, detail)

    def _reason(self, status: int, printed: str) -> str:
        if self._killed:
            return "the server stops"
        last = (printed.strip().splitlines() or [""])[-1]
        how = how_it_ended(status)
        if status == -signal.SIGKILL:
            how += " (memory may have run out)"
        return self._where(": ".join(filter(None, [how, last])))

    def _where(self, reason: str) -> str:
        return f"at {quoted(self._at)}: {reason}" if self._at else reason


_answers: IO[str] | None = None


def report(what: str) -> None:
    """Called in a helper: names the work under way, which is told if it dies there."""
    _send({"at": what})


def _send(message: dict[str, Any]) -> None:
    if _answers is not None:
        _answers.write(json.dumps(message, default=str) + "\n")
        _answers.flush()


class _LogSender(logging.Handler):
    """Sends log lines to the process that asked."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _send({"log": log_lines.described(record)})
        except Exception:  # arguments that do not fit the text, or nobody listens
            self.handleError(record)


def main() -> None:
    """Answers the request on stdin, and ends."""
    global _answers  # of this whole process, as its stdout was
    for number in (signal.SIGINT, signal.SIGTERM):  # to a whole group: the parent's to answer
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(int(sys.argv[3]))
    go_first()
    # Runtimes print on stdout, which must not mix with the answer.
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked: Mapping[str, Any] = json.load(sys.stdin)
    logging.basicConfig(level=asked["log_level"], handlers=[_LogSender()], force=True)
    module, name = TASKS[asked["task"]].split(":")
    work = cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
    try:
        answer = {"result": work(**asked["request"])}
    except ServingError as error:
        answer = {"error": told(error)}
    _send(answer)
    os._exit(0)  # nothing that a runtime does at its end is wanted

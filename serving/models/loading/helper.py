"""Runs work in a process of its own, which confines its memory and its crashes.

The request goes to the helper's stdin and the answer comes from its stdout, as one JSON document
each. Everything that a runtime prints goes to stderr. A ModelLoadError there is raised here as the
same class; any other end of the helper raises HelperFailed.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from serving.base.errors import ModelLoadError, ServingError, Told, restored, told

# The functions that a request may call, by name. Each takes the request's fields as keywords and
# returns a value that JSON can hold.
TASKS = {
    "time": "serving.models.loading.timing_process:time_candidates",
    "plans": "serving.models.loading.plan_builder:build_plans",
}

# The helper uses this process's sys.path. -I: until then it looks into no folder that the
# environment or the place where it is started names, and a module there cannot take a name's place.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from serving.models.loading.helper import main; main()"
)


class HelperFailed(Exception):
    """A helper that could not be started, or ended without an answer. The text is one line.

    detail: everything that it printed.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


class Helper:
    """One request to a helper."""

    def __init__(self, task: str, **request: Any) -> None:
        """`request` holds the keywords of the task; paths may stand for their text."""
        self._request = json.dumps({"task": task, "request": request}, default=str)
        self._process: subprocess.Popen[str] | None = None
        self._killed = False

    def run(self) -> Any:
        """The answer. Blocking. Raises HelperFailed, or the ModelLoadError that the task raised."""
        path = json.dumps([entry for entry in sys.path if entry])
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise HelperFailed(str(error)) from error
        if self._killed:
            process.kill()
        output, printed = process.communicate(self._request)
        try:
            answer = json.loads(output)
        except ValueError:
            last = (printed.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
            raise HelperFailed(last, printed) from None
        if "error" in answer:
            failure = restored(Told(*answer["error"]))
            if not isinstance(failure, ModelLoadError):
                raise HelperFailed(str(failure), getattr(failure, "detail", ""))
            raise failure
        return answer["result"]

    def kill(self) -> None:
        """Ends the process, from any thread; `run` then raises HelperFailed."""
        self._killed = True
        if self._process is not None:
            self._process.kill()


def main() -> None:
    """Answers the request on stdin, and ends."""
    # Runtimes print on stdout, which must not mix with the answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked: Mapping[str, Any] = json.load(sys.stdin)
    module, name = TASKS[asked["task"]].split(":")
    work = cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
    try:
        answer = {"result": work(**asked["request"])}
    except ServingError as error:
        answer = {"error": told(error)}
    with answers:
        json.dump(answer, answers, default=str)

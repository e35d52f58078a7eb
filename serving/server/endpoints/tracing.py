"""Traces of calls, in the format of NVIDIA Triton's."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import Counter

from serving.base.errors import InvalidInput
from serving.server.endpoints.file_writer import FileWriter

_DEFAULTS: dict[str, list[str]] = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
_LEVELS = ("OFF", "TIMESTAMPS")
_LOWEST = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
_INTEGER = re.compile(r"-?[0-9]{1,18}")
# Seconds for which a change of settings waits for the traces so far to be in their file. Larger
# holds up the event loop longer when the disk hangs, smaller may answer before a slow disk is done.
_WRITE_SECONDS = 0.2


class Tracer:
    """Writes when one call in `trace_rate` passed each stage. Settings are the server's, or those
    of one model. Traces that cannot be written are lost and counted in `write_failures`."""

    def __init__(self, write_failures: Counter) -> None:
        self._settings: dict[str, dict[str, list[str]]] = {"": dict(_DEFAULTS)}
        # Whether any of these settings traces at all; asked with every call.
        self._on = False
        self._seen = 0
        self._id = 0
        self._collected: dict[str, list[dict[str, object]]] = {}
        self._files = 0
        self._writer = FileWriter("trace", write_failures)

    def read(self, model: str = "") -> dict[str, list[str]]:
        """The settings that hold for a model, or the server's."""
        return {**self._settings[""], **self._settings.get(model, {})}

    def update(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Changes those that are named; an empty value falls back to the default, or for a model to
        the server's. Traces so far are written first. Raises InvalidInput; then nothing is
        changed."""
        for name, value in changes.items():
            _check(name, value)
        before = self.read(model)
        held = dict(self._settings.get(model, {}))
        for name, value in changes.items():
            if value:
                held[name] = list(value)
            elif model:
                held.pop(name, None)
            else:
                held[name] = _DEFAULTS[name]
        settings = self._settings | {model: held}
        for of_model in settings.values():
            _check_file_is_named(settings[""] | of_model)
        after = settings[""] | held
        # Switching off is allowed whatever has become of the file.
        switched_on = after["trace_level"] != ["OFF"] and before["trace_level"] == ["OFF"]
        if after["trace_file"] != before["trace_file"] or switched_on:
            _check_folder(after["trace_file"][0])
        self.flush()
        self._settings[model] = held
        self._on = any(
            held.get("trace_level", ["OFF"]) != ["OFF"] for held in self._settings.values()
        )

    def record(
        self, model: str, version: str, request_id: str, began: float, queue: float, infer: float
    ) -> None:
        """Notes a call that is being answered.

        began: when it began, in monotonic seconds.
        queue, infer: seconds that it waited and ran.
        """
        if not self._on:
            return
        settings = self.read(model)
        if settings["trace_level"] == ["OFF"] or settings["trace_count"] == ["0"]:
            return
        self._seen += 1
        if (self._seen - 1) % int(settings["trace_rate"][0]):
            return
        now = time.monotonic()
        compute = now - infer
        stages = {
            "REQUEST_START": began,
            "QUEUE_START": compute - queue,
            "COMPUTE_START": compute,
            "COMPUTE_END": now,
            "REQUEST_END": now,
        }
        self._id += 1
        trace: dict[str, object] = {
            "id": self._id,
            "model_name": model,
            "model_version": int(version),
            "timestamps": [{"name": k, "ns": int(v * 1e9)} for k, v in stages.items()],
        }
        if request_id:
            trace["request_id"] = request_id
        file = settings["trace_file"][0]
        self._collected.setdefault(file, []).append(trace)
        count = int(settings["trace_count"][0])
        if count > 0:
            held = self._settings[model if "trace_count" in self._settings.get(model, {}) else ""]
            held["trace_count"] = [str(count - 1)]
        frequency = int(settings["log_frequency"][0])
        if count == 1 or (frequency and len(self._collected[file]) >= frequency):
            self._write(numbered=bool(frequency))

    def flush(self, seconds: float = _WRITE_SECONDS) -> None:
        """Writes what was collected, and waits for so many seconds at most."""
        self._write(numbered=False)
        self._writer.wait(seconds)

    def _write(self, *, numbered: bool) -> None:
        """Has the writer write what was collected; with log_frequency into FILE.0, FILE.1, ..."""
        for file, traces in self._collected.items():
            if file:
                name = f"{file}.{self._files}" if numbered else file
                self._files += numbered
                self._writer.write(name, json.dumps(traces), append=False)
        self._collected.clear()


def _check(name: str, value: Sequence[str]) -> None:
    where = f"trace setting {name!r:.200}"
    if name not in _DEFAULTS:
        raise InvalidInput(f"{where}: expected one of {sorted(_DEFAULTS)}")
    if not value:
        return
    got = f"{list(value)!s:.200}"
    if name == "trace_level" and any(level not in _LEVELS for level in value):
        raise InvalidInput(f"{where}: expected one of {_LEVELS}, got {got}")
    if name == "trace_mode" and list(value) != ["triton"]:
        raise InvalidInput(f"{where}: expected triton, got {got}")
    if name == "trace_file" and (len(value) != 1 or "\0" in value[0]):
        raise InvalidInput(f"{where}: expected the name of one file, got {got}")
    if name in _LOWEST:
        lowest = _LOWEST[name]
        number = int(value[0]) if len(value) == 1 and _INTEGER.fullmatch(value[0]) else lowest - 1
        if number < lowest:
            got = f"{', '.join(value)!r:.200}"
            raise InvalidInput(f"{where}: expected an integer from {lowest}, got {got}")


def _check_file_is_named(settings: Mapping[str, Sequence[str]]) -> None:
    """Raises InvalidInput where these settings trace, but into no file."""
    if settings["trace_level"] != ["OFF"] and settings["trace_file"] == [""]:
        raise InvalidInput("trace setting 'trace_level': needs a 'trace_file' to write into")


def _check_folder(file: str) -> None:
    """Raises InvalidInput for a trace file in a folder that does not exist."""
    try:
        found = not file or Path(file).parent.is_dir()
    except OSError:
        found = False
    if not found:
        raise InvalidInput(f"trace setting 'trace_file': {file:.200} is in no folder that exists")

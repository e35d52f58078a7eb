"""Traces of calls, in the format of NVIDIA Triton's."""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence

from serving.base.counting.sums import Tally
from serving.base.errors import InvalidInput
from serving.server.endpoints.file_writer import WRITE_SECONDS, FilesFolder, FileWriter

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
# Traces that are collected for their files, some 600 bytes each. More let a longer run be traced
# into one file, and hold more memory; one that does not fit is lost and counted.
MOST_COLLECTED = 10_000
# Files of one name that log_frequency begins; then they are written anew from the first. More keep
# traces longer and take more of the disk.
_MOST_FILES = 100
# Characters of a call's id in its trace; a caller may give it megabytes.
_TRACED_ID = 200
# How every trace file begins.
_BEGINS = b'[{"id": '


class Tracer:
    """Writes when one call in `trace_rate` passed each stage. Settings are the server's, or those
    of one model. Traces that cannot be written, or held until they are, are lost and counted in
    `write_failures`."""

    def __init__(self, folder: FilesFolder, write_failures: Tally) -> None:
        self._settings: dict[str, dict[str, list[str]]] = {"": dict(_DEFAULTS)}
        # Whether any of these settings traces at all; asked with every call.
        self._on = False
        self._seen = 0
        self._id = 0
        # Traces as JSON, by file.
        self._collected: dict[str, list[str]] = {}
        self._held = 0
        self._files = 0
        self._folder = folder
        self._writer = FileWriter("trace", folder, _BEGINS, write_failures)

    def read(self, model: str = "") -> dict[str, list[str]]:
        """The settings that hold for a model, or the server's."""
        return {**self._settings[""], **self._settings.get(model, {})}

    async def update(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Changes those that are named; an empty value falls back to the default, or for a model to
        the server's. Traces so far go to their files. Raises InvalidInput; then nothing is
        changed."""
        for name, value in changes.items():
            _check(name, value)
        file = (changes.get("trace_file") or [""])[0]
        self._folder.check_name("trace setting 'trace_file'", file)
        # A file that is named already may be named again, whatever has become of it.
        if file and [file] != self.read(model)["trace_file"]:
            reason = await asyncio.to_thread(self._writer.check, file)
            if reason:
                raise InvalidInput(
                    f"trace setting 'trace_file': {file} cannot be written: {reason}"
                )
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
        self._write(numbered=False)
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
            trace["request_id"] = request_id[:_TRACED_ID]
        file = settings["trace_file"][0]
        if self._held < MOST_COLLECTED:
            self._collected.setdefault(file, []).append(json.dumps(trace))
            self._held += 1
        else:
            self._writer.lost(file, f"{MOST_COLLECTED} traces are collected, the most")
        count = int(settings["trace_count"][0])
        if count > 0:
            held = self._settings[model if "trace_count" in self._settings.get(model, {}) else ""]
            held["trace_count"] = [str(count - 1)]
        frequency = int(settings["log_frequency"][0])
        if count == 1 or (frequency and len(self._collected[file]) >= frequency):
            self._write(numbered=bool(frequency))

    def wait(self, seconds: float = WRITE_SECONDS) -> None:
        """Returns when the traces that went to their files are there or lost, or after so many
        seconds."""
        self._writer.wait(seconds)

    def flush(self, seconds: float) -> None:
        """Writes what was collected, and waits for so many seconds at most."""
        self._write(numbered=False)
        self.wait(seconds)

    def _write(self, *, numbered: bool) -> None:
        """Has the writer write what was collected; with log_frequency into FILE.0, FILE.1, ..."""
        for file, traces in self._collected.items():
            if file:
                name = f"{file}.{self._files % _MOST_FILES}" if numbered else file
                self._files += numbered
                parts = [part for trace in traces for part in (", ", trace)]
                self._writer.write(name, ("[", *parts[1:], "]"), append=False)
        self._collected.clear()
        self._held = 0


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
    if name == "trace_file" and len(value) != 1:
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

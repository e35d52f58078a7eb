"""Who may change a running server, and what callers may change of its logs and traces."""

import ipaddress
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.base.errors import InvalidInput, NotAllowed

Setting = bool | int | str


class Admin:
    """Admin calls are for this machine only, unless `allow_remote`; models are loaded by call only
    where `explicit` control was asked for."""

    def __init__(self, *, allow_remote: bool, explicit: bool) -> None:
        self._allow_remote = allow_remote
        self._explicit = explicit

    def require_local(self, address: str | None) -> None:
        """Raises NotAllowed for a caller from elsewhere; None is a caller without an address, on a
        socket of this machine."""
        if self._allow_remote or address is None:
            return
        try:
            local = ipaddress.ip_address(address).is_loopback
        except ValueError:
            local = False
        if not local:
            raise NotAllowed(f"admin calls are refused from {address}: --allow-admin permits them")

    def require_explicit(self) -> None:
        """Raises NotAllowed where models follow the repository and not calls."""
        if not self._explicit:
            raise NotAllowed("models are loaded by call only with --model-control explicit")


class LogSettings:
    """The protocol's log settings, carried out on Python's logging."""

    def __init__(self) -> None:
        self._values: dict[str, Setting] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "default",
        }
        self._file: logging.FileHandler | None = None

    def read(self) -> dict[str, Setting]:
        """All settings as they stand."""
        return dict(self._values)

    def update(self, changes: Mapping[str, Setting]) -> None:
        """Changes those that are named. Raises InvalidInput for an unknown one, a wrong type, or a
        file that cannot be written; then nothing is changed."""
        for name, value in changes.items():
            if name not in self._values:
                raise InvalidInput(f"log setting {name!r}: expected one of {sorted(self._values)}")
            if type(value) is not type(self._values[name]):
                expected = type(self._values[name]).__name__
                raise InvalidInput(f"log setting {name!r}: expected {expected}, got {value!r}")
        if changes.get("log_format", "default") not in ("default", "ISO8601"):
            raise InvalidInput(
                f"log setting 'log_format': expected default or ISO8601, "
                f"got {changes['log_format']!r}"
            )
        if "log_file" in changes:
            self._write_to(str(changes["log_file"]))
        self._values |= changes
        logging.getLogger().setLevel(self._level())

    def _level(self) -> int:
        if self._values["log_verbose_level"]:
            return logging.DEBUG
        for name, level in (
            ("log_info", logging.INFO),
            ("log_warning", logging.WARNING),
            ("log_error", logging.ERROR),
        ):
            if self._values[name]:
                return level
        return logging.CRITICAL

    def _write_to(self, file: str) -> None:
        """Also logs into a file; none where the name is empty."""
        root = logging.getLogger()
        handler = None
        if file:
            try:
                handler = logging.FileHandler(file)
            except OSError as error:
                raise InvalidInput(
                    f"log setting 'log_file': {file} cannot be written: {error.strerror}"
                ) from error
            if root.handlers:
                handler.setFormatter(root.handlers[0].formatter)
            root.addHandler(handler)
        if self._file is not None:
            root.removeHandler(self._file)
            self._file.close()
        self._file = handler


_TRACE_DEFAULTS: dict[str, list[str]] = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
_TRACE_LEVELS = ("OFF", "TIMESTAMPS")
_TRACE_NUMBERS = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}


class Tracer:
    """Writes when one call in `trace_rate` passed each stage, in the format of NVIDIA Triton's
    traces. Settings are the server's, or those of one model."""

    def __init__(self) -> None:
        self._settings: dict[str, dict[str, list[str]]] = {"": dict(_TRACE_DEFAULTS)}
        # Asked with every call: whether any of these settings traces at all.
        self._on = False
        self._seen = 0
        self._id = 0
        self._collected: dict[str, list[dict[str, object]]] = {}
        self._files = 0

    def read(self, model: str = "") -> dict[str, list[str]]:
        """The settings that hold for a model, or the server's."""
        return {**self._settings[""], **self._settings.get(model, {})}

    def update(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Changes those that are named; an empty value falls back to the default, or for a model to
        the server's. Raises InvalidInput; then nothing is changed."""
        for name, value in changes.items():
            _check_trace(name, value)
        defaults = self._settings[""] if model else _TRACE_DEFAULTS
        after = self.read(model) | {name: list(v) or defaults[name] for name, v in changes.items()}
        if after["trace_level"] != ["OFF"] and after["trace_file"] == [""]:
            raise InvalidInput("trace setting 'trace_level': needs a 'trace_file' to write into")
        self.flush()
        held = self._settings.setdefault(model, {})
        for name, value in changes.items():
            if value:
                held[name] = list(value)
            elif model:
                held.pop(name, None)
            else:
                held[name] = _TRACE_DEFAULTS[name]
        self._on = any(
            held.get("trace_level", ["OFF"]) != ["OFF"] for held in self._settings.values()
        )

    def record(
        self, model: str, version: str, request_id: str, began: float, queue: float, infer: float
    ) -> None:
        """Notes a call that is being answered: when it began (monotonic seconds), how long it
        waited and ran."""
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
            self.flush(numbered=bool(frequency))

    def flush(self, *, numbered: bool = False) -> None:
        """Writes what was collected; with log_frequency into FILE.0, FILE.1, ..."""
        for file, traces in self._collected.items():
            if file:
                name = f"{file}.{self._files}" if numbered else file
                self._files += numbered
                Path(name).write_text(json.dumps(traces))
        self._collected.clear()


def _check_trace(name: str, value: Sequence[str]) -> None:
    where = f"trace setting {name!r}"
    if name not in _TRACE_DEFAULTS:
        raise InvalidInput(f"{where}: expected one of {sorted(_TRACE_DEFAULTS)}")
    if not value:
        return
    if name == "trace_level" and any(level not in _TRACE_LEVELS for level in value):
        raise InvalidInput(f"{where}: expected one of {_TRACE_LEVELS}, got {list(value)}")
    if name == "trace_mode" and list(value) != ["triton"]:
        raise InvalidInput(f"{where}: expected triton, got {list(value)}")
    if name in _TRACE_NUMBERS:
        lowest = _TRACE_NUMBERS[name]
        if len(value) != 1 or not value[0].lstrip("-").isdecimal() or int(value[0]) < lowest:
            raise InvalidInput(
                f"{where}: expected an integer from {lowest}, got {', '.join(value)!r}"
            )
    if name == "trace_file" and value[0] and not Path(value[0]).parent.is_dir():
        raise InvalidInput(f"{where}: {value[0]} is in no folder that exists")

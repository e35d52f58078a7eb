"""Checks of a run: conditions on its figures such as `--fail-if p99>50ms`."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_FORM = re.compile(r"\s*([a-z_]+[0-9.]*)\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)?)\s*(us|ms|s|%)?\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
# Milliseconds by unit.
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}

_Figure = Callable[[dict[str, Any]], float | None]


def _percentile(name: str) -> _Figure:
    return lambda phase: phase["latency_ms"].get(name, {}).get("value")


_LATENCIES: dict[str, _Figure] = {
    **{name: _percentile(name) for name in ("p50", "p90", "p95", "p99", "p99.9")},
    "mean": lambda phase: phase["latency_ms"].get("mean"),
    "max": lambda phase: phase["latency_ms"].get("max"),
    "lateness": lambda phase: phase["generator"]["lateness_ms"]["p99"],
}
_SHARES: dict[str, _Figure] = {
    "error_rate": lambda phase: phase["error_rate"],
    "good_rate": lambda phase: phase.get("good_rate"),
    "accuracy": lambda phase: phase.get("accuracy", {}).get("value"),
    "generator_cpu": lambda phase: phase["generator"]["cpu"],
}
_NUMBERS: dict[str, _Figure] = {
    "errors": lambda phase: sum(phase["errors"].values()),
    "requests": lambda phase: phase["requests"],
    "requests_per_second": lambda phase: phase["requests_per_second"],
    "images_per_second": lambda phase: phase["images_per_second"],
    "goodput_per_second": lambda phase: phase.get("goodput_per_second"),
    "mean_batch_size": lambda phase: phase["mean_batch_size"],
}


@dataclass(frozen=True)
class Condition:
    """A condition that must not hold. `limit` is in ms for a latency, a fraction for a share."""

    text: str
    figure: str
    symbol: str
    limit: float

    def failure(self, phase: dict[str, Any]) -> str:
        """The reason why a phase of `summarise` fails, or "". A figure that it lacks fails."""
        value = {**_LATENCIES, **_SHARES, **_NUMBERS}[self.figure](phase)
        if value is None:
            return f"{self.text}: {phase['label']} has no {self.figure}"
        if not _OPERATORS[self.symbol](value, self.limit):
            return ""
        unit = " ms" if self.figure in _LATENCIES else ""
        return f"{self.text}: {phase['label']} has {self.figure} {value:.6g}{unit}"


def parse_condition(text: str) -> Condition:
    """Reads `p99>50ms`, `errors>0`, `error_rate>1%`. Raises ValueError."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"expected FIGURE>VALUE such as p99>50ms, got {text!r}")
    figure, symbol, number, unit = found.groups()
    if figure in _LATENCIES:
        if unit not in _TIMES:
            raise ValueError(f"expected a time such as 50ms in {text!r}")
        factor = _TIMES[unit]
    elif figure in _SHARES:
        factor = 0.01 if unit == "%" else 1.0
        if unit in _TIMES:
            raise ValueError(f"expected a share such as 1% in {text!r}")
    elif figure in _NUMBERS:
        factor = 1.0
        if unit is not None:
            raise ValueError(f"expected a plain number in {text!r}")
    else:
        known = ", ".join([*_LATENCIES, *_SHARES, *_NUMBERS])
        raise ValueError(f"expected one of {known}; got {figure!r}")
    return Condition(text.strip(), figure, symbol, float(number) * factor)


@dataclass(frozen=True)
class Check:
    """One check of one phase; `failure` is "" where it passed."""

    phase: str
    name: str
    failure: str


def check(document: dict[str, Any], conditions: Sequence[Condition]) -> list[Check]:
    """Checks of each phase: it has answers, the generator kept its schedule, no condition holds."""
    checks = []
    for phase in document["phases"]:
        label = phase["label"]
        statuses = ", ".join(f"{name} {count:,}" for name, count in phase["errors"].items())
        nothing = "" if phase["answered"] else f"nothing was answered ({statuses or 'no request'})"
        checks.append(Check(label, "answered", nothing))
        checks.append(Check(label, "generator kept its schedule", phase["void"]))
        checks += [Check(label, c.text, c.failure(phase)) for c in conditions]
    return checks

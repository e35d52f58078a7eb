"""Compares two servers that were measured in turns (A B A B), so that drift affects both alike."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Student's t for a two-sided interval of 95 %, by degrees of freedom from 1 on.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060,
)  # fmt: skip
_T_MANY = 1.96

_FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "requests_per_second": lambda phase: phase["requests_per_second"],
    "p50": lambda phase: phase["latency_ms"].get("p50", {}).get("value"),
    "p99": lambda phase: phase["latency_ms"].get("p99", {}).get("value"),
}


def compare(phases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ratio B/A of each figure: geometric mean over the rounds, and its interval from their spread.

    phases: of `summarise`, A and B in turns; an A without its B at the end is left out.
    """
    firsts, seconds = phases[::2], phases[1::2]
    pairs = list(zip(firsts, seconds, strict=False))
    found: dict[str, Any] = {"rounds": len(pairs)}
    for name, read in _FIGURES.items():
        logs = [math.log(b / a) for a, b in ((read(x), read(y)) for x, y in pairs) if a and b]
        found[name] = ratio(logs)
    return found


def ratio(logs: Sequence[float]) -> dict[str, float | None]:
    """Geometric mean of ratios, given as logarithms, and its interval of 95 %; None where there are
    too few."""
    if not logs:
        return {"ratio": None, "low": None, "high": None}
    mean = float(np.mean(logs))
    if len(logs) < 2:
        return {"ratio": math.exp(mean), "low": None, "high": None}
    t = _T[len(logs) - 2] if len(logs) - 2 < len(_T) else _T_MANY
    half = t * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return {
        "ratio": math.exp(mean),
        "low": math.exp(mean - half),
        "high": math.exp(mean + half),
    }

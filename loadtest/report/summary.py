"""Computes the figures of a run from its records: the document behind every report."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.report import latency
from loadtest.report.comparison import compare
from loadtest.results import NOT_SENT, OK, STATUSES, UNANSWERED, UNCHECKED, Phase, Records, Run

STAGES = ("decode", "queue", "infer", "postprocess")


def summarise(run: Run) -> dict[str, Any]:
    """Settings, figures of each phase, and the comparison of two servers. Latencies are in ms."""
    document: dict[str, Any] = {
        "settings": run.settings,
        "models": list(run.models),
        "phases": [summarise_phase(phase, run) for phase in run.phases],
    }
    if run.settings.get("against"):
        document["comparison"] = compare(document["phases"])
    return document


def summarise_phase(phase: Phase, run: Run) -> dict[str, Any]:
    """The figures of one phase."""
    records = phase.measured
    answered = records[records["status"] == OK]
    finished = phase.records[phase.records["status"] == OK]
    ends = finished["due"] + finished["latency"]
    finished = finished[(ends >= phase.begin) & (ends < phase.end)]
    errors = _errors(records)
    lateness = lateness_of(phase)
    bound = float(run.settings.get("max_lateness", math.inf))
    found: dict[str, Any] = {
        "label": phase.label,
        "url": phase.url,
        "arrivals": phase.arrivals,
        "offered_rate": phase.rate,
        "concurrency": phase.concurrency,
        "seconds": phase.seconds,
        "interrupted": phase.interrupted,
        "requests": len(records),
        "answered": len(answered),
        "requests_per_second": len(finished) / phase.seconds,
        "images_per_second": float(finished["images"].sum()) / phase.seconds,
        "errors": errors,
        "error_rate": sum(errors.values()) / len(records) if len(records) else 0.0,
        "latency_ms": _latency(answered),
        "naive_p99_ms": _naive(answered, phase),
        "p99_stability": _stability(answered, float(run.settings.get("stable", 0.1))),
        "generator": {
            "workers": phase.workers,
            "cpu": phase.generator_cpu,
            "lateness_ms": lateness,
        },
        "void": _void(lateness, bound),
        "stages_ms": _stages(answered),
        "server": phase.server,
    }
    found |= _batches(answered, phase.server)
    found |= _goodput(records, phase, float(run.settings.get("objective", 0.0)))
    found |= _accuracy(answered)
    if len(run.models) > 1:
        found["by_model"] = {
            name: _of_model(records[records["model"] == number], phase)
            for number, name in enumerate(run.models)
        }
    return found


def _of_model(records: Records, phase: Phase) -> dict[str, Any]:
    answered = records[records["status"] == OK]
    values = latency.percentiles(latency.histogram(answered["latency"]))
    return {
        "requests": len(records),
        "requests_per_second": len(answered) / phase.seconds,
        "errors": _errors(records),
        "latency_ms": {_name(p): {"value": value * 1e3} for p, value in values.items()},
        **_accuracy(answered),
    }


def _errors(records: Records) -> dict[str, int]:
    numbers, counts = np.unique(records["status"], return_counts=True)
    return {
        STATUSES[number] if number < len(STATUSES) else str(number): count
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        if number not in (OK, UNANSWERED)
    }


def _latency(answered: Records) -> dict[str, Any]:
    """Percentiles with their intervals; mean and largest."""
    if not len(answered):
        return {}
    values = latency.percentiles(latency.histogram(answered["latency"]))
    samples = latency.resampled(answered["due"], answered["latency"], latency.PERCENTILES)
    found: dict[str, Any] = {}
    for column, (percentile, value) in enumerate(values.items()):
        low, high = latency.interval(samples[:, column])
        found[_name(percentile)] = {"value": value * 1e3, "low": low * 1e3, "high": high * 1e3}
    found["mean"] = float(answered["latency"].mean(dtype=np.float64)) * 1e3
    found["max"] = float(answered["latency"].max()) * 1e3
    return found


def _name(percentile: float) -> str:
    return f"p{percentile:g}"


def _naive(answered: Records, phase: Phase) -> float | None:
    """p99 (ms) of an open loop as reported by one caller that waits for each answer before it sends
    the next request: it misses the requests due meanwhile (coordinated omission)."""
    if not len(answered) or phase.concurrency:
        return None
    due, ends = answered["due"], answered["due"] + answered["latency"]
    seen = [0]
    while (following := int(np.searchsorted(due, ends[seen[-1]]))) < len(due):
        seen.append(max(following, seen[-1] + 1))
        if seen[-1] == len(due):
            seen.pop()
            break
    own = latency.histogram(answered["latency"][seen])
    return latency.percentiles(own, (99.0,))[99.0] * 1e3


def _stability(answered: Records, tolerance: float) -> dict[str, Any]:
    found = latency.instability(answered["due"], answered["latency"])
    return {
        # JSON has no infinity.
        "relative": found if math.isfinite(found) else None,
        "tolerance": tolerance,
        "stable": found <= tolerance,
    }


def lateness_of(phase: Phase) -> dict[str, float]:
    """Time from due to sent, ms: p50, p99, max. A closed loop is never late."""
    records = phase.measured
    sent = records["late"][records["status"] != NOT_SENT] * 1e3
    if phase.concurrency or not len(sent):
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    p50, p99 = np.percentile(sent, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "max": float(sent.max())}


def _void(lateness: dict[str, float], bound: float) -> str:
    """The reason why the phase tells nothing about the server, or ""."""
    if lateness["p99"] <= bound * 1e3:
        return ""
    return (
        f"the generator itself was late: p99 {lateness['p99']:.1f} ms, at most {bound * 1e3:g} ms "
        "may be; give it more --workers or a machine of its own"
    )


def _stages(answered: Records) -> dict[str, dict[str, float]]:
    """Mean and p99 of the stage times in the answers, ms; empty where answers have none."""
    timed = answered[answered["batch_size"] > 0]
    if not len(timed):
        return {}
    found = {}
    for stage in STAGES:
        column = timed[f"{stage}_us"] / 1e3
        found[stage] = {"mean": float(column.mean()), "p99": float(np.percentile(column, 99))}
    return found


def _batches(answered: Records, server: dict[str, Any]) -> dict[str, Any]:
    """Mean size of the batches that ran, and its source.

    A batch of n is counted by n answers, hence the harmonic mean over answers.
    """
    timed = answered["batch_size"][answered["batch_size"] > 0]
    if len(timed):
        mean = len(timed) / float((1 / timed.astype(np.float64)).sum())
        return {"mean_batch_size": mean, "batch_size_from": "answers"}
    for source in ("statistics", "metrics"):
        mean = server.get(source, {}).get("mean_batch_size")
        if mean:
            return {"mean_batch_size": mean, "batch_size_from": source}
    return {"mean_batch_size": None, "batch_size_from": None}


def _goodput(records: Records, phase: Phase, objective: float) -> dict[str, Any]:
    """Good answers/s within their deadline or, without one, within the objective (seconds)."""
    limit = np.where(records["deadline"] > 0, records["deadline"], objective or np.inf)
    if not np.isfinite(limit).any():
        return {}
    good = (records["status"] == OK) & (records["latency"] <= limit)
    return {
        "goodput_per_second": int(good.sum()) / phase.seconds,
        "good_rate": float(good.mean()),
    }


def _accuracy(answered: Records) -> dict[str, Any]:
    """Share of right labels of all that were compared, with a Wilson interval."""
    checked = answered[answered["right"] != UNCHECKED]
    n = int(checked["images"].sum())
    if not n:
        return {}
    right = int(checked["right"].sum())
    low, high = _wilson(right, n)
    return {
        "accuracy": {"checked": n, "right": right, "value": right / n, "low": low, "high": high}
    }


def _wilson(right: int, n: int) -> tuple[float, float]:
    z = 1.96
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def over_time(phase: Phase, points: int = 120) -> dict[str, NDArray[Any]]:
    """Figures of `points` stretches of a phase, for plots.

    time: middle of the stretch, seconds from the start.
    rate, errors: requests/s due in it that were answered, and that failed.
    p50, p99: ms; NaN where nothing was answered.
    """
    records = phase.records
    end = max(phase.end, 1e-9)
    edges = np.linspace(0, end, points + 1)
    width = end / points
    slots = np.clip(np.searchsorted(edges, records["due"], side="right") - 1, 0, points - 1)
    ok = records["status"] == OK
    p50, p99 = np.full(points, np.nan), np.full(points, np.nan)
    for slot in np.unique(slots[ok]):
        p50[slot], p99[slot] = np.percentile(records["latency"][ok & (slots == slot)], (50, 99))
    return {
        "time": edges[:-1] + width / 2,
        "rate": np.bincount(slots[ok], minlength=points) / width,
        "errors": np.bincount(slots[~ok], minlength=points) / width,
        "p50": p50 * 1e3,
        "p99": p99 * 1e3,
    }

"""Measures the time that an engine takes for a batch, keeps it, and names the machine."""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from serving.base.machine.cpu import CoreTime, machine, thread_times
from serving.base.machine.nvml import gpus
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import Engine

# Calls before the measurement, which allocate memory and choose kernels.
_WARMUP_CALLS = 2
# Calls that are timed at least. More steady the median of slow networks and lengthen loading.
_MIN_CALLS = 3
# Share of a call's time that threads may have waited for a core. More lets neighbours lengthen the
# median, less throws away calls that hardly waited.
_UNDISTURBED = 0.05


def measure_latency(
    engine: Engine, inputs: Sequence[TensorSpec], batch_sizes: Iterable[int], seconds: float = 0.5
) -> dict[int, float]:
    """Median milliseconds of one call of infer, by batch size, each measured for about `seconds`.

    The first dimension of every input is the batch, the others must be fixed. Elements are random
    bytes from a fixed seed, since the time of a dense network does not depend on its input; wider
    integers, which may be indices into a table, are 0 or 1. Raises EngineError.
    """
    rng = np.random.default_rng(0)

    def batch(size: int) -> dict[str, Array]:
        arrays = {}
        for spec in inputs:
            shape = (size, *spec.shape[1:])
            array = engine.allocate(spec, shape)
            index = spec.dtype.kind in "iu" and spec.dtype.itemsize > 1
            array[...] = rng.integers(0, 2 if index else 256, shape, np.uint8)
            arrays[spec.name] = array
        return arrays

    return time_batches(engine, ((size, batch(size)) for size in batch_sizes), seconds)


def time_batches(
    engine: Engine, batches: Iterable[tuple[int, Mapping[str, Array]]], seconds: float
) -> dict[int, float]:
    """Median milliseconds of one call of infer with each batch, by its size, each measured for
    about `seconds`, without the time in which others had the cores. Raises EngineError."""
    milliseconds: dict[int, float] = {}
    for size, batch in batches:
        for _ in range(_WARMUP_CALLS):
            engine.infer(batch)
        calls: list[_Call] = []
        end = time.perf_counter() + seconds
        while len(calls) < _MIN_CALLS or time.perf_counter() < end:
            calls.append(_timed(engine, batch))
        milliseconds[size] = _typical(calls) * 1e3
    return milliseconds


class _Call(NamedTuple):
    """Seconds of one call of infer.

    taken: from begin to end.
    waited: of all threads together, ready to run while others had the cores.
    ran: of the thread that ran longest.
    """

    taken: float
    waited: float
    ran: float


def _timed(engine: Engine, batch: Mapping[str, Array]) -> _Call:
    before = thread_times()
    start = time.perf_counter()
    engine.infer(batch)
    taken = time.perf_counter() - start
    none = CoreTime(0.0, 0.0)
    spent = [(now, before.get(thread, none)) for thread, now in thread_times().items()]
    waited = sum(now.waited - then.waited for now, then in spent)
    return _Call(taken, waited, max((now.ran - then.ran for now, then in spent), default=0.0))


def _typical(calls: Sequence[_Call]) -> float:
    """Median seconds of the calls that had the cores to themselves. A process of the lowest
    priority beside a busy server may have had none: each call then counts as what it would have
    taken at least, so that a wait is not taken for the network's own time."""
    undisturbed = [call.taken for call in calls if call.waited <= _UNDISTURBED * call.taken]
    if len(undisturbed) >= _MIN_CALLS:
        return median(undisturbed)
    return median(max(call.taken - call.waited, call.ran) for call in calls)


def device_name(engine_device: str) -> str:
    """The machine of a measurement: the processor and, for an engine on GPUs, their names."""
    if engine_device == "cpu":
        return machine()
    names = ", ".join(f"{device.name} (driver {device.driver})" for device in gpus())
    return f"{machine()}, {names}"


def read_cached(path: Path) -> dict[int, float] | None:
    """Seconds by batch size as `write_cached` wrote them; None where there is no usable file."""
    try:
        content = json.loads(path.read_text())
        table = {int(size): float(seconds) for size, seconds in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    usable = all(size > 0 and 0 < seconds < math.inf for size, seconds in table.items())
    return table if table and usable else None


def write_cached(path: Path, seconds: Mapping[int, float]) -> None:
    """Keeps a measurement. Where the cache cannot be written, the next start measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")  # others may measure the same
        partial.write_text(json.dumps(dict(seconds)))
        partial.replace(path)
    except OSError:
        return

"""Measures the time that an engine takes for a batch, and names the machine."""

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from serving.base.machine.cpu import machine
from serving.base.machine.nvml import gpus
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import Engine

# Calls before the measurement, which allocate memory and choose kernels.
_WARMUP_CALLS = 2
# Calls that are timed at least. More steady the median of slow networks and lengthen loading.
_MIN_CALLS = 3


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
    about `seconds`. Raises EngineError."""
    milliseconds: dict[int, float] = {}
    for size, batch in batches:
        for _ in range(_WARMUP_CALLS):
            engine.infer(batch)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < _MIN_CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            engine.infer(batch)
            times.append(time.perf_counter() - start)
        milliseconds[size] = median(times) * 1e3
    return milliseconds


def device_name(engine_device: str) -> str:
    """The machine of a measurement: the processor and, for an engine on GPUs, their names."""
    if engine_device == "cpu":
        return machine()
    names = ", ".join(f"{device.name} (driver {device.driver})" for device in gpus())
    return f"{machine()}, {names}"

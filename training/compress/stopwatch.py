"""Times one network against another, in the engine that will serve it."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import TracebackType

import numpy as np
from torch import nn

from serving.base.machine.cpu import core_count
from serving.base.tensor import Array, TensorSpec
from serving.engines import EngineOptions, load_engine
from serving.engines.engine import Engine
from training.compress.calibration import Feeds
from training.compress.fp16 import to_half
from training.compress.quantize import quantize
from training.models.export.variants import SCHEMES

# Writes a network's served file.
WriteFile = Callable[[nn.Module, Path], None]

_WARMUP_CALLS = 3
_MIN_ROUNDS = 5
# Calls of one engine in a row: the first after a change of engine finds foreign caches.
_CALLS_PER_TURN = 3


class Stopwatch:
    """Times networks against a reference, in turns, so that whatever else the machine does slows
    both. A context manager: it holds the reference's engine."""

    def __init__(
        self,
        write: WriteFile,
        reference: nn.Module,
        engine: str,
        precision: str,
        spec: TensorSpec,
        batch_size: int,
        seconds: float,
    ) -> None:
        self._write = write
        self._engine = engine
        self._options = EngineOptions(
            precision=precision, threads=core_count(), max_batch_size=batch_size
        )
        self._seconds = seconds
        shape = (batch_size, *spec.shape[1:])
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._input = {spec.name: pixels}
        self._reference = self._load(reference)

    def __enter__(self) -> "Stopwatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reference.close()

    def speedup(self, network: nn.Module) -> float:
        """Time of the reference's call over that of this network's. Raises EngineError."""
        candidate = self._load(network)
        try:
            return speedup(self._reference, candidate, self._input, self._seconds)
        finally:
            candidate.close()

    def _load(self, network: nn.Module) -> Engine:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            self._write(network, path)
            return load_engine(self._engine, path, self._options)


def write_variant(float_file: Path, path: Path, variant: str, calibration: Feeds) -> None:
    """Writes a variant of an FP32 file that is only timed: with ranges that were measured roughly.
    Raises ExportError."""
    if variant in SCHEMES:
        quantize(float_file, path, SCHEMES[variant], "minmax", calibration)
    elif variant == "fp16":
        to_half(float_file, path)
    else:
        float_file.rename(path)


def speedup(
    reference: Engine, candidate: Engine, inputs: dict[str, Array], seconds: float
) -> float:
    """Median over rounds of the reference's time over the candidate's; a round times each engine
    once, as the median of three calls. Takes about `seconds`."""
    for engine in (reference, candidate):
        for _ in range(_WARMUP_CALLS):
            engine.infer(inputs)
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < _MIN_ROUNDS or time.perf_counter() < end:
        ratios.append(_turn(reference, inputs) / _turn(candidate, inputs))
    return median(ratios)


def _turn(engine: Engine, inputs: dict[str, Array]) -> float:
    times = []
    for _ in range(_CALLS_PER_TURN):
        start = time.perf_counter()
        engine.infer(inputs)
        times.append(time.perf_counter() - start)
    return median(times)

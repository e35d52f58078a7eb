"""What happens on an instance's thread: gather a batch, run it, time both."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from serving.base.errors import EngineError
from serving.base.tensor import Array, TensorSpec


class Runner(Protocol):
    """What running a batch needs of an engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array: ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


@dataclass(frozen=True, slots=True)
class Executed:
    """A batch that has run: outputs [rows, ...] by name, and the seconds of its two steps."""

    outputs: dict[str, Array]
    gather: float
    infer: float


class BatchExecution:
    """Runs batches for as many threads at once as there are instances, each with batch buffers of
    its own. max_batch_size 0: no batch dimension, one call a batch."""

    def __init__(
        self,
        engine: Runner,
        max_batch_size: int,
        instances: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._buffers: SimpleQueue[dict[str, Array]] = SimpleQueue()
        for _ in range(instances):
            self._buffers.put(self._allocate())

    def run(self, parts: Sequence[Mapping[str, Array]]) -> Executed:
        """Gathers `parts`, inputs [rows, ...] by name each, and runs them as one batch.

        Raises EngineError, also where the engine gives back another number of rows.
        """
        begin = self._clock()
        buffers = self._buffers.get()
        try:
            inputs = self._gather(parts, buffers)
            gathered = self._clock()
            outputs = self._engine.infer(inputs)
        finally:
            self._buffers.put(buffers)
        if self._max_batch_size:
            rows = len(next(iter(inputs.values())))
            for name, array in outputs.items():
                if array.shape[:1] != (rows,):
                    raise EngineError(
                        f"output {name!r} of {rows} rows came back with shape {array.shape}"
                    )
        return Executed(outputs, gathered - begin, self._clock() - gathered)

    def _allocate(self) -> dict[str, Array]:
        """Buffers for the inputs whose shape is known beforehand."""
        if not self._max_batch_size:
            return {}
        return {
            spec.name: self._engine.allocate(spec, (self._max_batch_size, *spec.shape[1:]))
            for spec in self._engine.inputs
            if -1 not in spec.shape[1:]
        }

    def _gather(
        self, parts: Sequence[Mapping[str, Array]], buffers: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The one copy: all rows, one after the other, into the engine's memory."""
        if not self._max_batch_size:
            # Views of a message begin at any byte, and engines read numbers where these may lie.
            return {name: np.require(array, requirements="A") for name, array in parts[0].items()}
        batch: dict[str, Array] = {}
        for name, first in parts[0].items():
            arrays = [part[name] for part in parts]
            rows = sum(map(len, arrays))
            buffer = buffers.get(name)
            if buffer is None:
                spec = next(spec for spec in self._engine.inputs if spec.name == name)
                buffer = self._engine.allocate(spec, (rows, *first.shape[1:]))
            batch[name] = np.concatenate(arrays, out=buffer[:rows])
        return batch

"""Runs a batch, inline or on a thread: gathers its inputs, runs it, and times both steps."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from queue import LifoQueue
from typing import Protocol

import numpy as np

from serving.base.errors import EngineError, ModelNotReady
from serving.base.machine.priority import engines_give_way
from serving.base.tensor import Array, TensorSpec


class Runner(Protocol):
    """The part of an engine that runs batches."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array: ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


@dataclass(frozen=True, slots=True)
class Executed:
    """A batch that has run.

    outputs: arrays [rows, ...] by name.
    gather: seconds of copying its inputs together.
    infer: seconds in the engine.
    began: when the engine began, on the clock of the batches.
    """

    outputs: dict[str, Array]
    gather: float
    infer: float
    began: float


class BatchExecution:
    """Runs batches, as many at a time as there are instances, each in batch buffers of its own.

    max_batch_size: rows; 0 for no batch dimension, and then one call a batch.
    threads: run the batches that do not run inline; by default a pool whose threads have `name`.
    gives_way: the engine uses the cores that decoding uses, and the threads of that pool give way.
    """

    def __init__(
        self,
        engine: Runner,
        max_batch_size: int,
        instances: int,
        clock: Callable[[], float] = time.monotonic,
        threads: Executor | None = None,
        name: str = "infer",
        *,
        gives_way: bool = False,
    ) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._threads = threads or ThreadPoolExecutor(
            instances, name, engines_give_way if gives_way else None
        )
        self._stopped = False
        self._clock = clock
        self._buffers: LifoQueue[dict[str, Array]] = LifoQueue()
        for _ in range(instances):
            self._buffers.put(self._allocate())

    def start(
        self,
        parts: Sequence[Mapping[str, Array]],
        inline: bool,
        done: Callable[[Executed | BaseException], None],
    ) -> None:
        """Runs `parts` as one batch, inline or on a thread, and calls `done` on the event loop with
        the result or the error. Raises ModelNotReady after `close`, when the engine may be gone."""
        if self._stopped:
            raise ModelNotReady("the model is being unloaded")
        if inline:
            done(self._outcome(parts))
            return
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._outcome, parts)
        except RuntimeError as error:
            # Another thread called `close` in between.
            if self._stopped:
                raise ModelNotReady("the model is being unloaded") from error
            raise
        future.add_done_callback(lambda future: done(_outcome_of(future)))

    def close(self) -> None:
        """Starts no further batches and waits for running ones."""
        self._stopped = True
        self._threads.shutdown(wait=True)

    def _outcome(self, parts: Sequence[Mapping[str, Array]]) -> Executed | BaseException:
        """Returns errors instead of raising them: asyncio would lose a StopIteration from a thread,
        and the whole batch with it."""
        try:
            return self.run(parts)
        except Exception as error:
            return error

    def run(self, parts: Sequence[Mapping[str, Array]]) -> Executed:
        """Gathers `parts`, inputs [rows, ...] by name each, and runs them as one batch here.

        Raises EngineError, also where the engine returns another number of rows.
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
        return Executed(outputs, gathered - begin, self._clock() - gathered, gathered)

    def _allocate(self) -> dict[str, Array]:
        """Buffers for the inputs whose shape is fixed."""
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
        """Copies all rows, one after the other, into the engine's memory: the only copy."""
        if not self._max_batch_size:
            # A view of a message may begin at any byte, but engines need aligned numbers.
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


def _outcome_of(future: "asyncio.Future[Executed | BaseException]") -> Executed | BaseException:
    try:
        return future.result()
    except BaseException as error:
        # The thread pool dropped it, or the engine raised SystemExit or the like.
        return error

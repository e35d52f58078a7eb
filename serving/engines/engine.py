"""The interface between the server and a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from serving.base.tensor import Array, TensorSpec


@dataclass(frozen=True)
class EngineOptions:
    """Options of loading a file.

    precision: "fp32", "bf16", "fp16" or "int8".
    instances: calls of infer that may run at the same time.
    threads: CPU threads that each of them may use.
    max_batch_size: rows of the largest batch.
    cache_dir: folder for files that a runtime compiles; None for none.
    devices: the GPU of each instance; empty on the CPU.
    graph_batch_sizes: batch sizes to keep a CUDA graph for.
    """

    precision: str = "fp32"
    instances: int = 1
    threads: int = 1
    max_batch_size: int = 1
    cache_dir: Path | None = None
    devices: tuple[int, ...] = ()
    graph_batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlanProfile:
    """The batch sizes of a TensorRT plan, in rows.

    smallest, largest: the bounds of the sizes that it can run.
    usual: the size for which TensorRT tunes it.
    """

    smallest: int
    usual: int
    largest: int

    def __str__(self) -> str:
        return f"{self.smallest}-{self.usual}-{self.largest}"


class Engine(Protocol):
    """A network loaded into a runtime, on one device."""

    @property
    def name(self) -> str:
        """The engine's name in flags, manifests and metrics ("openvino", "onnxruntime", ...)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the order of the file, batch dimension included."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the order of the file, batch dimension included."""

    @property
    def device_bytes(self) -> int:
        """GPU memory that it holds, in bytes; 0 where the runtime does not tell."""

    @property
    def check_rows(self) -> int:
        """Rows that a check of its answers needs: a batch of so many rows passes through every path
        by which the engine computes batches."""

    @property
    def overlap_rows(self) -> int:
        """Rows from which the next batch is worth being given before the one that runs ends: a
        thread that has no more rows of the one begins with the other, and one more call of infer
        may run. 0 where it never is."""

    @property
    def largest_batch(self) -> int:
        """The most rows that the file was built for; 0 where it sets no bound."""

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Host memory for an input of this shape, of the kind that the runtime reads fastest
        (page-locked where there is a GPU). The caller may keep it."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch and blocks until it is done, without the GIL while the runtime works.

        Takes C-contiguous arrays by input name, which are read and not kept. Returns arrays by
        output name, which belong to the caller. Raises EngineError.
        """

    def close(self) -> None:
        """Frees the runtime's memory; infer must not be running."""


def infer_in_parts(engine: Engine, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """The outputs of any number of rows, run in batches of at most `rows`, since a plan takes no
    more. Raises EngineError."""
    count = len(next(iter(inputs.values())))
    parts = [
        engine.infer(
            {
                name: np.ascontiguousarray(array[start : start + rows])
                for name, array in inputs.items()
            }
        )
        for start in range(0, count, rows)
    ]
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def infer_each(engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of calls that are run one by one; the first dimension of every array is the
    call. Raises EngineError."""
    count = len(next(iter(inputs.values())))
    calls = [
        engine.infer({name: np.asarray(array[i], order="C") for name, array in inputs.items()})
        for i in range(count)
    ]
    return {output: np.stack([call[output] for call in calls]) for output in calls[0]}

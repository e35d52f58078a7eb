"""The whole interface between the server and a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from serving.base.tensor import Array, TensorSpec

# An engine may part a batch over its threads, each of which takes up to so many rows at a time.
CHUNK_ROWS = 4


@dataclass(frozen=True)
class EngineOptions:
    """How to load a file.

    `instances` is how many calls of infer may run at the same time, `threads` the CPU threads that
    each may use; `cache_dir` is where a runtime may keep what it compiled. On GPUs `devices` names
    the one of each instance, and `graph_batch_sizes` the sizes to keep a CUDA graph for.
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
    """The batch sizes of a TensorRT plan: the smallest and the largest that it can run, and the
    usual one, for which it is made fast."""

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

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Host memory for an input of this shape from which the runtime reads fastest (page-locked
        where there is a GPU); the caller keeps it as long as it likes."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch and blocks until it is done. C-contiguous arrays in, read and not kept;
        arrays that belong to the caller out. Holds no Python lock while the runtime works.

        Raises EngineError.
        """

    def close(self) -> None:
        """Frees what the runtime holds; infer must not be running."""


def infer_in_parts(engine: Engine, name: str, images: Array, rows: int) -> dict[str, Array]:
    """The outputs of any number of images, in batches of at most `rows`, beyond which a plan does
    not go. `name` is the only input's. Raises EngineError."""
    parts = [
        engine.infer({name: np.ascontiguousarray(images[start : start + rows])})
        for start in range(0, len(images), rows)
    ]
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}

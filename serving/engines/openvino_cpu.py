"""OpenVINO on CPU."""

import queue
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import CHUNK_ROWS, EngineOptions

# OpenVINO's package reports its use over the internet, from a process that it forks; it goes
# without where the reporting module cannot be imported. A server tells nobody and forks nothing.
sys.modules.setdefault("openvino_telemetry", cast("Any", None))
import openvino  # noqa: E402
from openvino import Type, properties  # noqa: E402

VERSION: str = openvino.__version__

# Without strings: the Python interface takes no arrays of them.
_DATATYPES = {
    Type.boolean: "BOOL",
    Type.u8: "UINT8",
    Type.u16: "UINT16",
    Type.u32: "UINT32",
    Type.u64: "UINT64",
    Type.i8: "INT8",
    Type.i16: "INT16",
    Type.i32: "INT32",
    Type.i64: "INT64",
    Type.f16: "FP16",
    Type.bf16: "BF16",
    Type.f32: "FP32",
    Type.f64: "FP64",
}


# Of a file that is held twice, each thread computes so many rows at a time. What passes between
# layers then stays in a core's cache, and of three sizes OpenVINO prepares and keeps less than of
# all.
_CHUNKS = (CHUNK_ROWS, 2, 1)
# A larger file is not held in memory twice.
_HELD_TWICE_BYTES = 64 << 20


class OpenVinoEngine:
    """A compiled model with as many infer requests as calls may run at once.

    An instance of several threads computes a single row together: all threads work on a layer, and
    wait for each other at its end. Batches the only instance of a model computes apart, in a second
    compiled model: each thread takes its own rows through all layers. Whatever else needs a core
    for a moment then stops one thread and not all of them. Of small batches the rows that are left
    over when each thread has had as many, too few to keep most threads busy, are computed together.
    """

    name = "openvino"
    device_bytes = 0

    def __init__(self, file: Path, options: EngineOptions) -> None:
        self._settings: dict[str, Any] = {
            # Explicit, since the default is bf16 on some CPUs: precision is part of the variant.
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": options.threads * options.instances,
            "ENABLE_CPU_PINNING": False,
            # What it prepares for a layer at a batch size is kept, by default for 5,000 of both:
            # ResNet-50 would grow by 170 MB until every size up to 32 had come. This many are
            # those of a few sizes, and a load keeps to a few.
            "CPU_RUNTIME_CACHE_CAPACITY": 192,
        }
        if options.cache_dir is not None:
            self._settings[properties.cache_dir()] = str(options.cache_dir)
        together = self._compile(file, options.instances)
        self.inputs = tuple(_spec(file, port) for port in together.inputs)
        self.outputs = tuple(_spec(file, port) for port in together.outputs)
        self._together: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(options.instances):
            self._together.put(together.create_infer_request())
        self._threads = options.threads
        # One list, of those that were needed so far.
        self._apart: queue.SimpleQueue[list[openvino.InferRequest]] = queue.SimpleQueue()
        self._parts_batches = self._gains_by_parts(file, options)
        if self._parts_batches:
            self._apart.put([self._compile(file, options.threads).create_infer_request()])

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Plain memory: the CPU plugin reads numpy arrays in place."""
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See Engine.infer."""
        try:
            rows, *others = {len(array) for array in inputs.values() if array.ndim} or {0}
            # What is empty or of several lengths is the runtime's to judge.
            apart = self._rows_apart(rows) if self._parts_batches and not others else 0
            if not apart:
                return self._joined([self._infer_together(inputs)])
            requests = self._apart.get()
            try:
                answers = self._infer_apart(requests, _chunks(inputs, apart, self._threads))
                if apart < rows:
                    answers.append(self._infer_together(_part(inputs, apart, rows)))
                return self._joined(answers)
            finally:
                self._apart.put(requests)
        except (RuntimeError, MemoryError) as error:
            raise EngineError(f"OpenVINO: {error}") from error

    def close(self) -> None:
        """See Engine.close."""
        # Only requests hold the compiled models: they free them without Python's lock, which a
        # model's own destructor holds for some 8 ms.
        self._together = queue.SimpleQueue()
        self._apart = queue.SimpleQueue()

    def _compile(self, file: Path, streams: int) -> openvino.CompiledModel:
        settings = self._settings | {"NUM_STREAMS": streams}
        try:
            return openvino.Core().compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            raise EngineUnavailable(f"{file}: OpenVINO cannot load it: {error}") from error

    def _gains_by_parts(self, file: Path, options: EngineOptions) -> bool:
        specs = self.inputs + self.outputs
        return (
            options.instances == 1
            and options.threads > 1
            and self._rows_apart(options.max_batch_size) > 0
            and all(spec.shape and spec.shape[0] == -1 for spec in specs)
            # A request holds its last input: one batch buffer for all, where sizes are fixed.
            and not any(-1 in spec.shape[1:] for spec in self.inputs)
            and file.stat().st_size <= _HELD_TWICE_BYTES
        )

    def _rows_apart(self, rows: int) -> int:
        """How many of a batch's rows are computed apart: all, where few threads would have nothing
        to do for a while, or that while is short beside the rest."""
        left = rows % self._threads
        if left > self._threads / 2 or rows > self._threads * CHUNK_ROWS:
            return rows
        return rows - left

    def _infer_together(self, inputs: Mapping[str, Array]) -> list[Array]:
        request = self._together.get()
        try:
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            # Copies, since the next call overwrites the request's own.
            return [np.array(answer) for answer in self._answers(request)]
        finally:
            self._together.put(request)

    def _infer_apart(
        self, requests: list[openvino.InferRequest], chunks: Sequence[Mapping[str, Array]]
    ) -> list[list[Array]]:
        """The answers to each chunk, which belong to its request."""
        while len(requests) < len(chunks):
            requests.append(requests[0].get_compiled_model().create_infer_request())
        started = []
        try:
            for request, chunk in zip(requests, chunks, strict=False):
                request.start_async(chunk, share_inputs=True)
                started.append(request)
        finally:
            _wait_for_all(started)
        return [self._answers(request) for request in started]

    def _answers(self, request: openvino.InferRequest) -> list[Array]:
        return [request.get_output_tensor(index).data for index in range(len(self.outputs))]

    def _joined(self, answers: Sequence[list[Array]]) -> dict[str, Array]:
        """The chunks' answers by the outputs' names: copies, but for a single chunk's, which is one
        that was computed together; apart there are at least two."""
        names = [spec.name for spec in self.outputs]
        if len(answers) == 1:
            return dict(zip(names, answers[0], strict=True))
        return {
            name: np.concatenate(parts)
            for name, parts in zip(names, zip(*answers, strict=True), strict=True)
        }


def _chunks(inputs: Mapping[str, Array], rows: int, threads: int) -> list[dict[str, Array]]:
    """The first rows of a batch in parts, the largest first, that give each thread as much to do as
    the others."""
    sizes = []
    for thread in range(threads):
        left = rows // threads + (thread < rows % threads)
        for size in _CHUNKS:
            sizes += [size] * (left // size)
            left %= size
    edges = accumulate(sorted(sizes, reverse=True), initial=0)
    return [_part(inputs, start, end) for start, end in pairwise(edges)]


def _part(inputs: Mapping[str, Array], start: int, end: int) -> dict[str, Array]:
    return {name: array[start:end] for name, array in inputs.items()}


def _wait_for_all(requests: Sequence[openvino.InferRequest]) -> None:
    """Raises what one failed with, but not before the others have ended, too: they read memory that
    is the caller's."""
    failures: list[BaseException] = []
    # The last one first: with it the others mostly have ended, so that this thread wakes up once.
    for request in reversed(requests):
        try:
            request.wait()
        except BaseException as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


def _spec(file: Path, port: openvino.ConstOutput) -> TensorSpec:
    datatype = _DATATYPES.get(port.element_type)
    if datatype is None:
        name = port.element_type.get_type_name()
        raise EngineUnavailable(f"{file}: {port.any_name}: element type {name} is not served")
    if port.partial_shape.rank.is_dynamic:
        raise EngineUnavailable(f"{file}: {port.any_name}: the number of dimensions is not known")
    shape = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
    return TensorSpec(port.any_name, datatype, shape)

"""OpenVINO on CPU."""

import contextlib
import queue
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import EngineOptions
from serving.repository.onnx_file import NotTold, content_digest, read_facts

# OpenVINO's package would fork a process that reports its use over the internet. It does not where
# the module for it cannot be imported.
sys.modules.setdefault("openvino_telemetry", cast("Any", None))
import openvino  # noqa: E402
from openvino import Type, properties  # noqa: E402

from serving.engines.openvino_faults import fault_of  # noqa: E402

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


# Rows that one thread computes at a time where a batch is computed apart. Larger chunks push the
# activations between layers out of a core's cache, smaller ones read the weights more often.
# OpenVINO prepares and keeps layers for each size: three sizes take less memory than all up to the
# largest.
_CHUNK_ROWS = 4
_CHUNKS = (_CHUNK_ROWS, 2, 1)
# Batches that are computed apart at a time: one, and the next one at its end.
_OVERLAPPING = 2
# Bytes of a model file. Larger files are not loaded twice, so their batches are never computed
# apart; a larger bound trades memory for speed.
_HELD_TWICE_BYTES = 64 << 20


class OpenVinoEngine:
    """A compiled model with as many infer requests as there are instances.

    Together: all threads of an instance work on one layer and wait for each other at its end.
    Single rows are computed this way.
    Apart: each thread takes rows of its own through all layers, in a second compiled model. A model
    with one instance computes batches this way, because a core that is busy elsewhere for a moment
    then delays one thread and not all. After each thread has had an equal number of rows, a rest
    that would keep fewer than half of the threads busy is computed together. A thread that has no
    more rows of a batch takes those of the next one where it is there.
    """

    name = "openvino"
    device_bytes = 0
    largest_batch = 0

    def __init__(self, file: Path, options: EngineOptions) -> None:
        self._settings: dict[str, Any] = {
            # Explicit, since the default is bf16 on some CPUs: precision is part of the variant.
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": options.threads * options.instances,
            "ENABLE_CPU_PINNING": False,
            # Prepared layers that are kept, one for each layer and batch size. Larger takes more
            # memory: OpenVINO's own 5,000 lets ResNet-50 grow by 170 MB once each size up to 32 has
            # been run. Smaller prepares layers again and again. 192 hold the layers of the few
            # sizes that batches have under load.
            "CPU_RUNTIME_CACHE_CAPACITY": 192,
        }
        if options.cache_dir is not None:
            # OpenVINO recognises a file by its path, size and time of change.
            compiled = options.cache_dir / "openvino" / content_digest(file)
            self._settings[properties.cache_dir()] = str(compiled)
        together = self._compile(file, options.instances)
        fault = fault_of(together, file, options.max_batch_size)
        if fault is not None:
            said = f"OpenVINO would compute it wrongly, ONNX Runtime does not: {fault}"
            raise EngineUnavailable(f"{file}: {said}")
        self.inputs, self.outputs = _specs(file, together)
        self._together: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(options.instances):
            self._together.put(together.create_infer_request())
        self._threads = options.threads
        self.check_rows = _CHUNK_ROWS * options.threads
        # A list for each of the two batches that overlap: the requests that were made so far.
        self._apart: queue.LifoQueue[list[openvino.InferRequest]] = queue.LifoQueue()
        self._parts_batches = self._gains_by_parts(file, options)
        can_be_as_large = self._parts_batches and options.max_batch_size >= self.check_rows
        self.overlap_rows = self.check_rows if can_be_as_large else 0
        if self._parts_batches:
            apart = self._compile(file, options.threads)
            for _ in range(_OVERLAPPING if self.overlap_rows else 1):
                self._apart.put([apart.create_infer_request()])

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Plain memory: the CPU plugin reads numpy arrays in place."""
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch. Raises EngineError."""
        try:
            rows, *others = {len(array) for array in inputs.values() if array.ndim} or {0}
            # The runtime judges empty batches and inputs of different lengths.
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
        """Frees requests and compiled models."""
        # Only requests hold the compiled models, and free them without the GIL; the destructor of a
        # model itself would hold it for 8 ms.
        self._together = queue.SimpleQueue()
        self._apart = queue.LifoQueue()

    def _compile(self, file: Path, streams: int) -> openvino.CompiledModel:
        settings = self._settings | {"NUM_STREAMS": streams}
        try:
            # On CPUs with AMX the library gives the thread that compiles a signal stack, and unmaps
            # it with the network. On the main thread the next Ctrl-C would then end the process.
            with ThreadPoolExecutor(1) as thread:
                compiling = thread.submit(openvino.Core().compile_model, str(file), "CPU", settings)
                return compiling.result()
        except RuntimeError as error:
            raise EngineUnavailable(f"{file}: OpenVINO cannot load it: {error}") from error

    def _gains_by_parts(self, file: Path, options: EngineOptions) -> bool:
        specs = self.inputs + self.outputs
        return (
            options.instances == 1
            and options.threads > 1
            and self._rows_apart(options.max_batch_size) > 0
            and all(spec.shape and spec.shape[0] == -1 for spec in specs)
            # A request holds its last input. With fixed sizes that is one of the batch buffers.
            and not any(-1 in spec.shape[1:] for spec in self.inputs)
            and file.stat().st_size <= _HELD_TWICE_BYTES
        )

    def _rows_apart(self, rows: int) -> int:
        """Number of a batch's rows that are computed apart: all of them where at most half of the
        threads would be idle in the last round, or where that round is short beside the others;
        otherwise an equal number for each thread."""
        left = rows % self._threads
        if left > self._threads / 2 or rows > self._threads * _CHUNK_ROWS:
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
        """The answers to each chunk, in memory of its request."""
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
        """The answers of all chunks by output name. A single list is that of rows that were
        computed together, which is a copy already."""
        names = [spec.name for spec in self.outputs]
        if len(answers) == 1:
            return dict(zip(names, answers[0], strict=True))
        return {
            name: np.concatenate(parts)
            for name, parts in zip(names, zip(*answers, strict=True), strict=True)
        }


def _chunks(inputs: Mapping[str, Array], rows: int, threads: int) -> list[dict[str, Array]]:
    """The first `rows` of a batch in parts, the largest first, so that threads have equal work."""
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
    """Waits for all requests, since they read the caller's memory; then raises the first error."""
    failures: list[BaseException] = []
    # The last one first: when it ends the others mostly have, so this thread wakes up once.
    for request in reversed(requests):
        try:
            request.wait()
        except BaseException as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


def _specs(
    file: Path, model: openvino.CompiledModel
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs under the names of the file: a tensor that OpenVINO has merged with others
    has all of their names."""
    inputs, outputs = list(model.inputs), list(model.outputs)
    named: list[list[str]] = [[], []]
    with contextlib.suppress(NotTold, EngineUnavailable):
        facts = read_facts(file)
        named = [[spec.name for spec in specs] for specs in (facts.inputs, facts.outputs)]
    found = []
    for ports, names in zip((inputs, outputs), named, strict=True):
        told = names if len(names) == len(ports) else [""] * len(ports)
        found.append(
            tuple(
                _spec(file, port, name if name in port.get_names() else port.any_name)
                for port, name in zip(ports, told, strict=True)
            )
        )
    return found[0], found[1]


def _spec(file: Path, port: openvino.ConstOutput, name: str) -> TensorSpec:
    datatype = _DATATYPES.get(port.element_type)
    if datatype is None:
        kind = port.element_type.get_type_name()
        raise EngineUnavailable(f"{file}: {name}: element type {kind} is not served")
    if port.partial_shape.rank.is_dynamic:
        raise EngineUnavailable(f"{file}: {name}: the number of dimensions is not known")
    shape = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
    return TensorSpec(name, datatype, shape)

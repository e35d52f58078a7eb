"""TensorRT plans on NVIDIA GPUs.

Every instance has execution contexts, a stream and buffers of its own. A batch is uploaded, run and
downloaded on the stream of its instance, so the copies of one batch overlap the kernels of another.
"""

import logging
import queue
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines import cuda
from serving.engines.engine import EngineOptions
from serving.engines.tensorrt.log import Log, check_version

log = logging.getLogger(__name__)

VERSION: str = tensorrt.__version__

_DATATYPES = {
    tensorrt.DataType.FLOAT: "FP32",
    tensorrt.DataType.HALF: "FP16",
    tensorrt.DataType.BF16: "BF16",
    tensorrt.DataType.INT8: "INT8",
    tensorrt.DataType.INT32: "INT32",
    tensorrt.DataType.INT64: "INT64",
    tensorrt.DataType.BOOL: "BOOL",
    tensorrt.DataType.UINT8: "UINT8",
}
# Index of the optimization profile; our plans have one.
_PROFILE = 0


class TensorRtEngine:
    """A plan, loaded once on each GPU; as many batches may run at once as there are instances."""

    name = "tensorrt"
    check_rows = 1
    overlap_rows = 0

    def __init__(self, file: Path, options: EngineOptions) -> None:
        check_version(VERSION)
        devices = options.devices or (0,) * options.instances
        self._log = Log()
        try:
            plan = file.read_bytes()
        except OSError as error:
            raise EngineUnavailable(f"{file}: cannot be read: {error.strerror}") from error
        self._runtimes = []
        self._engines = {}
        self._all: list[_Instance] = []
        try:
            for device in sorted(set(devices)):
                cuda.use_device(device)
                runtime = tensorrt.Runtime(self._log)
                engine = runtime.deserialize_cuda_engine(plan)
                if engine is None:
                    raise EngineUnavailable(
                        f"{file}: TensorRT {VERSION} cannot load it on GPU {device}: "
                        f"{self._log.problems()}"
                    )
                self._runtimes.append(runtime)
                self._engines[device] = engine
            first = self._engines[devices[0]]
            self.inputs, self.outputs = _specs(file, first)
            for device in devices:
                instance = _Instance(device, self.inputs, self.outputs, self._log)
                # Listed before it takes memory, so that `close` frees it where that fails half-way.
                self._all.append(instance)
                instance.prepare(self._engines[device])
            for device, instance in zip(devices, self._all, strict=True):
                instance.capture(self._engines[device], options.graph_batch_sizes)
        except EngineError as error:
            self.close()
            raise EngineUnavailable(f"{file}: {error}") from error
        except EngineUnavailable:
            self.close()
            raise
        self._free: queue.SimpleQueue[_Instance] = queue.SimpleQueue()
        for instance in self._all:
            self._free.put(instance)
        self.largest_batch = self._all[0].largest_batch
        self.device_bytes = len(plan) * len(self._engines) + sum(i.bytes for i in self._all)
        log.info(
            "plan loaded",
            extra={
                "file": str(file),
                "devices": list(devices),
                "device_bytes": self.device_bytes,
                "graph_batch_sizes": list(self._all[0].graphs),
            },
        )

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Page-locked memory, which the GPU reads directly."""
        return cuda.pinned(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch on the first instance that is free. Raises EngineError."""
        for spec in self.inputs:
            array = inputs.get(spec.name)
            # A larger array would be written past the end of its buffer.
            if array is None or array.dtype != spec.dtype or not spec.fits(array.shape):
                got = f"{array.dtype} {list(array.shape)}" if array is not None else "nothing"
                raise EngineError(f"TensorRT: expected {spec}, got {got}")
        instance = self._free.get()
        try:
            return instance.run(inputs)
        finally:
            self._free.put(instance)

    def close(self) -> None:
        """Frees contexts before their engine, and engines before their runtime."""
        for instance in self._all:
            instance.close()
        self._all = []
        self._engines = {}
        self._runtimes = []


class _Instance:
    """A stream with its memory, for batches of any size of the profile.

    A captured graph holds addresses inside its context, and a change of shapes may move them. So
    each graph has a context of its own, whose shapes never change; batches of other sizes share a
    plain context. All contexts run on one stream, one after the other, and share scratch memory.
    """

    def __init__(
        self,
        device: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        messages: Log,
    ) -> None:
        self._device = device
        self._inputs = inputs
        self._outputs = outputs
        self._log = messages
        self.graphs: dict[int, cuda.Graph] = {}
        self._contexts: dict[int, _Context] = {}
        self._buffers: dict[str, cuda.DeviceBuffer] = {}
        self._host: dict[str, Array] = {}
        self.bytes = 0
        self.largest_batch = 0
        # Untyped, since both are None before `prepare`.
        self._plain: Any = None
        self._scratch: Any = None
        cuda.use_device(device)
        self._stream = cuda.Stream()

    def prepare(self, engine: tensorrt.ICudaEngine) -> None:
        """Takes a context and memory for the largest batch. Raises EngineError."""
        inputs, outputs = self._inputs, self._outputs
        self._scratch = cuda.DeviceBuffer(engine.device_memory_size_v2)
        self._plain = _Context(engine, self._scratch, self._stream, self._log)
        limits = {s.name: engine.get_tensor_profile_shape(s.name, _PROFILE) for s in inputs}
        self._smallest = {name: tuple(shapes[0]) for name, shapes in limits.items()}
        self._largest = {name: tuple(shapes[2]) for name, shapes in limits.items()}
        self.largest_batch = min(self._largest[spec.name][0] for spec in inputs if spec.shape)
        self._plain.set_shapes(self._largest)
        for spec in (*inputs, *outputs):
            shape = self._plain.shape(spec.name)
            if min(shape, default=1) < 1:
                raise EngineError(f"TensorRT: {spec.name} has no largest shape: {list(shape)}")
            size = int(np.prod(shape)) * spec.dtype.itemsize
            self._buffers[spec.name] = cuda.DeviceBuffer(size)
        self._plain.bind(self._buffers)
        for spec in outputs:
            self._host[spec.name] = cuda.pinned((self._buffers[spec.name].size,), np.dtype("u1"))
        self._stream.wait()
        self.bytes = self._scratch.size + sum(b.size for b in self._buffers.values())

    def capture(self, engine: tensorrt.ICudaEngine, batch_sizes: tuple[int, ...]) -> None:
        """Records a CUDA graph for each of these batch sizes that the profile allows. A size whose
        graph fails is served without a graph, and a warning gives the reason."""
        cuda.use_device(self._device)
        first = self._inputs[0].name
        for rows in sorted(set(batch_sizes)):
            if not self._smallest[first][0] <= rows <= self._largest[first][0]:
                continue
            try:
                context = _Context(engine, self._scratch, self._stream, self._log)
                context.set_shapes({name: (rows, *s[1:]) for name, s in self._largest.items()})
                context.bind(self._buffers)
                # TensorRT defers some work after a change of shapes; it must not be in the graph.
                context.enqueue()
                self._stream.wait()
                graph = self._stream.capture(context.enqueue)
            except EngineError as error:
                with suppress(EngineError):
                    self._stream.wait()
                log.warning(
                    "batch size served without a CUDA graph",
                    extra={"batch_size": rows, "device": self._device, "reason": str(error)},
                )
                continue
            self.graphs[rows], self._contexts[rows] = graph, context

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Uploads, runs and downloads one batch. Raises EngineError."""
        cuda.use_device(self._device)
        shapes = {spec.name: inputs[spec.name].shape for spec in self._inputs}
        for name, shape in shapes.items():
            smallest, largest = self._smallest[name], self._largest[name]
            limits = zip(smallest, shape, largest, strict=True)
            if not all(low <= size <= high for low, size, high in limits):
                raise EngineError(
                    f"TensorRT: {name} {list(shape)}; the plan was built for {list(smallest)} to "
                    f"{list(largest)}"
                )
        rows = next(iter(shapes.values()))[0]
        graph, context = self.graphs.get(rows), self._contexts.get(rows, self._plain)
        try:
            # Kept until the stream has ended: a copy that is made here must outlive its upload.
            sources = {name: np.ascontiguousarray(inputs[name]) for name in shapes}
            for name, source in sources.items():
                self._stream.to_device(self._buffers[name], source)
            if graph is not None:
                graph.launch(self._stream)
            else:
                context.set_shapes(shapes)
                context.enqueue()
            results = {}
            for spec in self._outputs:
                shape = context.shape(spec.name)
                size = int(np.prod(shape)) * spec.dtype.itemsize
                self._stream.to_host(self._host[spec.name][:size], self._buffers[spec.name])
                results[spec.name] = self._host[spec.name][:size].view(spec.dtype).reshape(shape)
            self._stream.wait()
        except EngineError:
            # Once the error is raised the caller may reuse its memory: no upload may still read it.
            with suppress(EngineError):
                self._stream.wait()
            raise
        # Copies, since the next batch overwrites the page-locked memory.
        return {name: array.copy() for name, array in results.items()}

    def close(self) -> None:
        """Frees its memory on the GPU."""
        with suppress(EngineError):
            cuda.use_device(self._device)
        for graph in self.graphs.values():
            graph.destroy()
        self._contexts, self._plain = {}, None
        for buffer in self._buffers.values():
            buffer.free()
        if self._scratch is not None:
            self._scratch.free()
        self._stream.destroy()


class _Context:
    """An execution context of an instance: in its scratch memory, on its stream."""

    def __init__(
        self,
        engine: tensorrt.ICudaEngine,
        scratch: cuda.DeviceBuffer,
        stream: cuda.Stream,
        messages: Log,
    ) -> None:
        self._stream = int(stream.handle)
        self._log = messages
        self._shapes: dict[str, tuple[int, ...]] = {}
        strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise EngineError(f"TensorRT: no execution context: {self._log.problems()}")
        self._context.set_device_memory(scratch.address, scratch.size)
        self._must(
            self._context.set_optimization_profile_async(_PROFILE, self._stream),
            "set_optimization_profile_async",
        )

    def bind(self, buffers: Mapping[str, cuda.DeviceBuffer]) -> None:
        """Sets the buffers from which inputs are read and to which outputs are written."""
        for name, buffer in buffers.items():
            self._must(self._context.set_tensor_address(name, buffer.address), "set_tensor_address")

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Sets the shapes of the inputs."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._must(self._context.set_input_shape(name, shape), "set_input_shape")
                self._shapes[name] = shape

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an input or an output, at the shapes of the inputs that were set."""
        return tuple(self._context.get_tensor_shape(name))

    def enqueue(self) -> None:
        """Queues the network on the stream."""
        self._must(self._context.execute_async_v3(self._stream), "execute_async_v3")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(f"TensorRT: {what} failed: {self._log.problems()}")


def _specs(
    file: Path, engine: tensorrt.ICudaEngine
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name)
        if dtype not in _DATATYPES:
            raise EngineUnavailable(f"{file}: {name}: element type {dtype} is not served")
        spec = TensorSpec(name, _DATATYPES[dtype], tuple(engine.get_tensor_shape(name)))
        mode = engine.get_tensor_mode(name)
        (inputs if mode == tensorrt.TensorIOMode.INPUT else outputs).append(spec)
    return tuple(inputs), tuple(outputs)

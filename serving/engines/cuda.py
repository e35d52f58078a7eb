"""CUDA memory, streams and graphs, shared by the engines on a GPU.

It calls NVIDIA's own bindings: they release the GIL while they wait, need only the driver, and are
far smaller than torch.
"""

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime

from serving.base.errors import EngineError
from serving.base.tensor import Array

_TO_DEVICE = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
_TO_HOST = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
# Page-locked for every GPU, not only for the current one.
_PORTABLE = runtime.cudaHostAllocPortable
_NON_BLOCKING = runtime.cudaStreamNonBlocking


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The values that a CUDA function returns beside its status. Raises EngineError with the
    function's name."""
    status, *values = function(*arguments)
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        message = text.decode() if isinstance(text, bytes) else str(text)
        raise EngineError(f"CUDA: {function.__name__}: {message}")
    return values[0] if len(values) == 1 else tuple(values)


def use_device(device: int) -> None:
    """Makes a GPU the current one of this thread."""
    call(runtime.cudaSetDevice, device)


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Page-locked host memory, from which copies run asynchronously. It is freed with the last
    array that is a view of it."""
    size = max(1, int(np.prod(shape)) * dtype.itemsize)
    address = int(call(runtime.cudaHostAlloc, size, _PORTABLE))
    buffer = (ctypes.c_ubyte * size).from_address(address)
    # numpy keeps `buffer` alive as long as a view of it; then the memory is freed, except at exit,
    # when the driver may be gone already.
    weakref.finalize(buffer, runtime.cudaFreeHost, address).atexit = False
    count = int(np.prod(shape))
    array: Array = np.frombuffer(memoryview(buffer), dtype, count).reshape(shape)
    return array


class DeviceBuffer:
    """Memory of the current GPU."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(call(runtime.cudaMalloc, max(1, size)))

    def free(self) -> None:
        """Gives it back; no work on it may be under way."""
        runtime.cudaFree(self.address)


class Stream:
    """A queue of work on the current GPU."""

    def __init__(self) -> None:
        self.handle = call(runtime.cudaStreamCreateWithFlags, _NON_BLOCKING)

    def to_device(self, target: DeviceBuffer, source: Array) -> None:
        """Queues the copy of a C-contiguous array, which must stay until `wait` has returned."""
        call(
            runtime.cudaMemcpyAsync,
            target.address, source.ctypes.data, source.nbytes, _TO_DEVICE, self.handle,
        )  # fmt: skip

    def to_host(self, target: Array, source: DeviceBuffer) -> None:
        """Queues the copy into a C-contiguous array, which may be read once `wait` has returned."""
        call(
            runtime.cudaMemcpyAsync,
            target.ctypes.data, source.address, target.nbytes, _TO_HOST, self.handle,
        )  # fmt: skip

    def wait(self) -> None:
        """Blocks until everything queued is done."""
        call(runtime.cudaStreamSynchronize, self.handle)

    def capture(self, enqueue: Callable[[], None]) -> "Graph":
        """The work that `enqueue` queues, recorded as a graph instead of being run."""
        # Thread-local: other streams of this process may allocate meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(runtime.cudaStreamBeginCapture, self.handle, mode)
        try:
            enqueue()
        except BaseException:
            runtime.cudaStreamEndCapture(self.handle)
            raise
        return Graph(call(runtime.cudaStreamEndCapture, self.handle))

    def destroy(self) -> None:
        """Frees it; nothing may be queued."""
        runtime.cudaStreamDestroy(self.handle)


class Graph:
    """Work that was captured once and is launched whole."""

    def __init__(self, captured: Any) -> None:
        try:
            self._executable = call(runtime.cudaGraphInstantiate, captured, 0)
        finally:
            runtime.cudaGraphDestroy(captured)

    def launch(self, stream: Stream) -> None:
        """Queues all of it."""
        call(runtime.cudaGraphLaunch, self._executable, stream.handle)

    def destroy(self) -> None:
        """Frees it; it may not be running."""
        runtime.cudaGraphExecDestroy(self._executable)

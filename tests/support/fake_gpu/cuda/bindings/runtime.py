"""A CUDA runtime without a GPU, which holds its callers to the rules.

Work that is queued on a stream does not happen before the stream is synchronised, so an answer that
is read too early, or memory that is freed or changed too early, shows.
"""

import ctypes
import enum
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

cudaHostAllocPortable = 1
cudaStreamNonBlocking = 1
# Those that are left of two.
DEVICES = min(2, len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")))


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInvalidDevice = 101
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
INVALID = cudaError_t.cudaErrorInvalidValue

Work = Callable[[], None]

_numbers = itertools.count(1)
_lock = threading.Lock()
_current = threading.local()
# Blocks by address: whether they are on the device, and their bytes.
blocks: dict[int, tuple[bool, ctypes.Array[Any]]] = {}
streams: dict[int, list[Work]] = {}
captures: dict[int, list[Work]] = {}
graphs: dict[int, list[Work]] = {}


def cudaSetDevice(device: int) -> tuple[cudaError_t]:
    if not 0 <= device < DEVICES:
        return (cudaError_t.cudaErrorInvalidDevice,)
    _current.device = device
    return (OK,)


def cudaGetErrorString(error: cudaError_t) -> tuple[cudaError_t, bytes]:
    return OK, error.name.encode()


def _allocate(size: int, on_device: bool) -> tuple[cudaError_t, int]:
    block = (ctypes.c_ubyte * size)(*([0xCD] * min(size, 64)))
    with _lock:
        blocks[ctypes.addressof(block)] = (on_device, block)
    return OK, ctypes.addressof(block)


def cudaMalloc(size: int) -> tuple[cudaError_t, int]:
    return _allocate(size, on_device=True)


def cudaHostAlloc(size: int, flags: int) -> tuple[cudaError_t, int]:
    assert flags == cudaHostAllocPortable
    return _allocate(size, on_device=False)


def _free(address: int, on_device: bool) -> tuple[cudaError_t]:
    with _lock:
        if blocks.get(address, (None,))[0] is not on_device:
            return (INVALID,)
        del blocks[address]
    return (OK,)


def cudaFree(address: int) -> tuple[cudaError_t]:
    assert not any(streams.values()), "memory is freed while work is queued"
    return _free(address, on_device=True)


def cudaFreeHost(address: int) -> tuple[cudaError_t]:
    return _free(address, on_device=False)


def device_block(address: int, size: int) -> int:
    """The address itself, if `size` bytes of living device memory begin there."""
    on_device, block = blocks[address]
    assert on_device, "host memory where device memory is needed"
    assert size <= len(block), f"{size} bytes in a block of {len(block)}"
    return address


def cudaStreamCreateWithFlags(flags: int) -> tuple[cudaError_t, int]:
    assert flags == cudaStreamNonBlocking
    number = next(_numbers)
    streams[number] = []
    return OK, number


def cudaStreamDestroy(stream: int) -> tuple[cudaError_t]:
    assert not streams.pop(stream), "a stream with work queued is destroyed"
    return (OK,)


def enqueue(stream: int, work: Work) -> None:
    """Queues on the stream, or records where it captures."""
    captures.get(stream, streams[stream]).append(work)


def cudaMemcpyAsync(
    target: int, source: int, count: int, kind: cudaMemcpyKind, stream: int
) -> tuple[cudaError_t]:
    if stream not in streams:
        return (INVALID,)
    device = target if kind is cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if device not in blocks or count > len(blocks[device][1]):
        return (INVALID,)

    def copy() -> None:
        assert device in blocks, "device memory was freed before the copy ran"
        ctypes.memmove(target, source, count)

    enqueue(stream, copy)
    return (OK,)


def cudaStreamSynchronize(stream: int) -> tuple[cudaError_t]:
    if stream not in streams or stream in captures:
        return (INVALID,)
    queued, streams[stream] = streams[stream], []
    for work in queued:
        work()
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
    if streams[stream]:
        return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
    captures[stream] = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[cudaError_t, int]:
    number = next(_numbers)
    graphs[number] = captures.pop(stream)
    return OK, number


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[cudaError_t, int]:
    number = next(_numbers)
    graphs[number] = list(graphs[graph])
    return OK, number


def cudaGraphLaunch(executable: int, stream: int) -> tuple[cudaError_t]:
    for work in graphs[executable]:
        enqueue(stream, work)
    return (OK,)


def cudaGraphDestroy(graph: int) -> tuple[cudaError_t]:
    del graphs[graph]
    return (OK,)


def cudaGraphExecDestroy(executable: int) -> tuple[cudaError_t]:
    return cudaGraphDestroy(executable)

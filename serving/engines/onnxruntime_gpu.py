"""ONNX Runtime on NVIDIA GPUs: its CUDA provider and its TensorRT provider."""

import contextlib
import importlib
import io
import queue
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import EngineOptions
from serving.engines.onnxruntime_cpu import VERSION as VERSION
from serving.engines.onnxruntime_cpu import session_settings, specs
from serving.engines.onnxruntime_session import CPU, CUDA, TENSORRT, Session

# CUDA's libraries come as wheels, each in a folder that no loader searches. The call prints the
# libraries that it does not find there, although the system may have them.
with contextlib.redirect_stdout(io.StringIO()):
    onnxruntime.preload_dlls()

_INSTALL = "pip install convserve[gpu], in an environment without [cpu]"


def missing_provider(provider: str) -> str | None:
    """Why this build of ONNX Runtime cannot use a provider at all; None where it can."""
    if provider in onnxruntime.get_available_providers():
        return None
    return f"onnxruntime {VERSION} was built without {provider} ({_INSTALL})"


def cuda_unavailable_reason() -> str | None:
    """Why the CUDA provider cannot be used here; None where it can."""
    return missing_provider(CUDA)


def tensorrt_unavailable_reason() -> str | None:
    """Why the TensorRT provider cannot be used here; None where it can. Raises ImportError or
    OSError where TensorRT itself is missing."""
    reason = missing_provider(TENSORRT)
    if reason is None:
        # Loads the libraries that the provider is linked with; no loader searches its wheel.
        importlib.import_module("tensorrt")
    return reason


def cuda_engine(file: Path, options: EngineOptions) -> "OnnxRuntimeGpuEngine":
    """A file on the CUDA provider."""
    return OnnxRuntimeGpuEngine("onnxruntime-cuda", [CUDA], file, options)


def tensorrt_engine(file: Path, options: EngineOptions) -> "OnnxRuntimeGpuEngine":
    """A file on the TensorRT provider; nodes that it cannot run go to the CUDA provider."""
    return OnnxRuntimeGpuEngine("onnxruntime-tensorrt", [TENSORRT, CUDA], file, options)


class OnnxRuntimeGpuEngine:
    """A session for each instance: a session with CUDA graphs cannot run two calls at once."""

    device_bytes = 0
    largest_batch = 0
    check_rows = 1
    overlap_rows = 0

    def __init__(
        self,
        name: str,
        providers: list[str],
        file: Path,
        options: EngineOptions,
        device_type: str = "cuda",
    ) -> None:
        self.name = name
        devices = options.devices or (0,) * options.instances
        self._cuda = _cuda() if device_type == "cuda" else None
        # The TensorRT provider has to be given the names and shapes of the inputs.
        self.inputs, self.outputs = _describe(file)
        self._sessions: list[Session] = []
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        try:
            for device in devices:
                self._sessions.append(
                    Session(
                        file, providers, device, device_type, self.inputs, self.outputs, options
                    )
                )
        except EngineUnavailable:
            self.close()
            raise
        for session in self._sessions:
            self._free.put(session)

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Page-locked memory where CUDA's bindings are installed, else plain memory, which costs
        one more copy on its way to the GPU."""
        if self._cuda is not None:
            pinned: Array = self._cuda.pinned(shape, spec.dtype)
            return pinned
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch in the first session that is free. Raises EngineError."""
        session = self._free.get()
        try:
            return session.run(inputs)
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineError(f"ONNX Runtime: {error}") from error
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Frees the sessions."""
        self._free = queue.SimpleQueue()
        for session in self._sessions:
            session.close()
        self._sessions = []


def _cuda() -> ModuleType | None:
    """serving.engines.cuda, where NVIDIA's bindings are installed."""
    try:
        return importlib.import_module("serving.engines.cuda")
    except ImportError:
        return None


def _describe(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a file, read without optimising it for any device."""
    settings = session_settings(1)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(file), settings, providers=[CPU])
    except Exception as error:  # the binding raises its own unrelated types
        raise EngineUnavailable(f"{file}: ONNX Runtime cannot load it: {error}") from error
    return specs(file, session)

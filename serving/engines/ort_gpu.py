"""ONNX Runtime on NVIDIA GPUs: its CUDA provider and its TensorRT provider."""

import contextlib
import importlib.util
import io
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from serving.engines.engine import EngineOptions
from serving.engines.ort import VERSION as VERSION
from serving.engines.ort import session_settings, specs
from serving.errors import EngineError, EngineUnavailable
from serving.tensor import Array, TensorSpec

# CUDA's libraries come as wheels, each in a folder where no loader looks. What is not found there
# may be the system's; the call prints it all the same.
with contextlib.redirect_stdout(io.StringIO()):
    onnxruntime.preload_dlls()

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_INSTALL = "pip install convserve[gpu], in an environment without [cpu]"
_MIB = 1 << 20

Provider = tuple[str, dict[str, str]]


def missing_provider(provider: str) -> str | None:
    """Why this build of ONNX Runtime cannot use a provider at all; None where it can."""
    if provider in onnxruntime.get_available_providers():
        return None
    return f"onnxruntime {VERSION} was built without {provider} ({_INSTALL})"


def cuda_unavailable_reason() -> str | None:
    """See missing_provider."""
    return missing_provider(CUDA)


def tensorrt_unavailable_reason() -> str | None:
    """See missing_provider."""
    return missing_provider(TENSORRT)


def cuda_engine(file: Path, options: EngineOptions) -> "OnnxRuntimeGpuEngine":
    """A file on the CUDA provider."""
    return OnnxRuntimeGpuEngine("onnxruntime-cuda", [CUDA], file, options)


def tensorrt_engine(file: Path, options: EngineOptions) -> "OnnxRuntimeGpuEngine":
    """A file on the TensorRT provider, which leaves what it cannot run to CUDA's."""
    return OnnxRuntimeGpuEngine("onnxruntime-tensorrt", [TENSORRT, CUDA], file, options)


class OnnxRuntimeGpuEngine:
    """A session for each instance: one that keeps CUDA graphs may not run two calls at once."""

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
        self._device_type = device_type
        # The inputs' names and shapes are part of what the TensorRT provider is told.
        self.inputs, self.outputs = _describe(file)
        sessions = [
            _Session(file, providers, device, device_type, self.inputs, self.outputs, options)
            for device in devices
        ]
        self._free: queue.SimpleQueue[_Session] = queue.SimpleQueue()
        for session in sessions:
            self._free.put(session)

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Page-locked memory where CUDA's bindings are installed, else plain memory, which costs
        one more copy on its way to the GPU."""
        if self._device_type == "cuda" and importlib.util.find_spec("cuda") is not None:
            from serving.engines import cuda

            return cuda.pinned(shape, spec.dtype)
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See Engine.infer."""
        session = self._free.get()
        try:
            return session.run(inputs)
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineError(f"ONNX Runtime: {error}") from error
        finally:
            self._free.put(session)

    def close(self) -> None:
        """See Engine.close."""
        self._free = queue.SimpleQueue()


class _Session:
    """A session on one GPU, with values on the device for each batch size that has a graph."""

    def __init__(
        self,
        file: Path,
        providers: list[str],
        device: int,
        device_type: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        options: EngineOptions,
    ) -> None:
        self._device = device
        self._device_type = device_type
        self._inputs = inputs
        self._outputs = outputs
        self._graph_sizes = options.graph_batch_sizes
        self._graphs: dict[int, _Bound] = {}
        asked = [_provider(name, device, inputs, options) for name in providers]
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), session_settings(options.threads), providers=asked
            )
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineUnavailable(f"{file}: ONNX Runtime cannot load it: {error}") from error
        got = self._session.get_providers()
        if got[:1] != providers[:1]:
            raise EngineUnavailable(
                f"{file}: asked for {providers[0]} on GPU {device}, ONNX Runtime fell back to "
                f"{got}: a library of CUDA, cuDNN or TensorRT is missing or does not fit "
                "(its own log names it)"
            )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = next(iter(inputs.values())).shape[0]
        if rows in self._graph_sizes:
            return self._replay(rows, inputs)
        binding = self._session.io_binding()
        for spec in self._inputs:
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(inputs[spec.name]))
        for spec in self._outputs:
            binding.bind_output(spec.name)
        self._session.run_with_iobinding(binding, self._run_options(-1))
        return {
            spec.name: np.array(value)
            for spec, value in zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True)
        }

    def _replay(self, rows: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The first run of a size records its graph, later ones replay it: on the same memory."""
        bound = self._graphs.get(rows)
        if bound is None:
            bound = self._graphs[rows] = _Bound(
                self._session, self._inputs, self._outputs, rows, self._device_type, self._device
            )
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self._session.run_with_iobinding(bound.binding, self._run_options(rows))
        return {name: np.array(value.numpy()) for name, value in bound.outputs.items()}

    def _run_options(self, graph: int) -> onnxruntime.RunOptions | None:
        """-1 says: neither record nor replay."""
        if not self._graph_sizes:
            return None
        settings = onnxruntime.RunOptions()
        settings.add_run_config_entry("gpu_graph_id", str(graph))
        return settings


class _Bound:
    """Inputs and outputs of one batch size, in memory of the device that stays where it is."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        rows: int,
        device_type: str,
        device: int,
    ) -> None:
        def on_device(spec: TensorSpec) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [rows, *spec.shape[1:]], spec.dtype.type, device_type, device
            )

        self.binding = session.io_binding()
        self.inputs = {spec.name: on_device(spec) for spec in inputs}
        self.outputs = {spec.name: on_device(spec) for spec in outputs}
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self.binding.bind_ortvalue_output(name, value)


def _provider(
    name: str, device: int, inputs: tuple[TensorSpec, ...], options: EngineOptions
) -> Provider:
    graphs = "1" if options.graph_batch_sizes else "0"
    if name == CUDA:
        return name, {
            "device_id": str(device),
            # What is called FP32 shall be FP32; its default is TF32.
            "use_tf32": "0",
            "enable_cuda_graph": graphs,
        }
    if name == TENSORRT:
        return name, _tensorrt_options(device, graphs, inputs, options)
    return name, {}


def _tensorrt_options(
    device: int, graphs: str, inputs: tuple[TensorSpec, ...], options: EngineOptions
) -> dict[str, str]:
    def shapes(rows: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(str(dim) for dim in (rows, *spec.shape[1:]))}"
            for spec in inputs
        )

    chosen = {
        "device_id": str(device),
        "trt_cuda_graph_enable": graphs,
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(options.max_batch_size),
        "trt_profile_max_shapes": shapes(options.max_batch_size),
        # With TensorRT 10 the switches allow what the file is typed as; with 11 they say nothing.
        "trt_fp16_enable": "1" if options.precision == "fp16" else "0",
        "trt_int8_enable": "1" if options.precision == "int8" else "0",
    }
    if options.cache_dir is not None:
        folder = options.cache_dir / "onnxruntime-tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
        chosen |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return chosen


def _describe(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a file, read without optimising it for any device."""
    settings = session_settings(1)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(file), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the binding raises its own unrelated types
        raise EngineUnavailable(f"{file}: ONNX Runtime cannot load it: {error}") from error
    return specs(file, session)

"""One ONNX Runtime session on one GPU: its providers, its CUDA graphs, and its thread."""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from serving.base.errors import EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import EngineOptions
from serving.engines.onnxruntime_cpu import session_settings
from serving.repository.onnx_file import content_digest

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CPU = "CPUExecutionProvider"

# The CUDA provider captures graphs in a mode that forbids allocations by other threads, so a
# process loads one session at a time.
_loading = threading.Lock()

Provider = tuple[str, dict[str, str]]


class Session:
    """A session on one GPU, with device memory for each batch size that has a graph.

    The CUDA provider keeps its graphs by thread, so one thread runs a session all its life. The
    TensorRT provider keeps a single graph for all shapes, so it gets none.
    """

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
        self._graph_sizes = () if providers[0] == TENSORRT else options.graph_batch_sizes
        self._graphs: dict[int, _Bound] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"onnxruntime-gpu{device}")
        try:
            with _loading:
                self._thread.submit(self._open, file, providers, options).result()
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One batch, on the session's thread."""
        return self._thread.submit(self._run, inputs).result()

    def close(self) -> None:
        """Frees it; nothing may be running."""
        self._graphs = {}
        # Untyped, since it is None after this and where loading failed.
        self._session: Any = None
        self._thread.shutdown()

    def _open(self, file: Path, providers: list[str], options: EngineOptions) -> None:
        reason = None
        if self._graph_sizes:
            try:
                self._session = self._load(file, providers, options)
                for rows in sorted(set(self._graph_sizes)):
                    self._replay(rows, _zeros(self._inputs, rows))
                return
            except Exception as error:  # the binding raises its own unrelated types
                reason = str(error)
            self._graph_sizes, self._graphs, self._session = (), {}, None
        self._session = self._load(file, providers, options)
        if reason is not None:
            log.warning(
                "served without CUDA graphs",
                extra={"file": str(file), "device": self._device, "reason": reason},
            )

    def _load(self, file: Path, providers: list[str], options: EngineOptions) -> Any:
        graphs = bool(self._graph_sizes)
        asked = [
            _provider(name, self._device, file, self._inputs, options, graphs=graphs)
            for name in providers
        ]
        settings = session_settings(options.threads)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            # With its fallback on, ONNX Runtime would hide why the provider failed.
            session = onnxruntime.InferenceSession(
                str(file), settings, providers=asked, enable_fallback=0
            )
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineUnavailable(f"{file}: ONNX Runtime cannot load it: {error}") from error
        got = session.get_providers()
        if got[:1] != providers[:1]:
            raise EngineUnavailable(
                f"{file}: asked for {providers[0]} on GPU {self._device}, ONNX Runtime fell back "
                f"to {got}: a library of CUDA, cuDNN or TensorRT is missing or does not fit "
                "(its own log names it)"
            )
        if CPU not in providers and (left := _nodes_on_cpu(session)):
            log.warning("nodes run on the CPU", extra={"file": str(file), "nodes": left})
        return session

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = next(iter(inputs.values())).shape[0]
        if rows in self._graphs:
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
        """Records the graph of a batch size at its first run and replays it later, on the same
        memory."""
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
        """Options that record or replay this graph; -1 does neither."""
        if not self._graph_sizes:
            return None
        settings = onnxruntime.RunOptions()
        settings.add_run_config_entry("gpu_graph_id", str(graph))
        return settings


class _Bound:
    """Inputs and outputs of one batch size, in device memory whose addresses stay the same."""

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


def _zeros(inputs: tuple[TensorSpec, ...], rows: int) -> dict[str, Array]:
    return {spec.name: np.zeros((rows, *spec.shape[1:]), spec.dtype) for spec in inputs}


def _nodes_on_cpu(session: onnxruntime.InferenceSession) -> list[str]:
    """Nodes that no GPU provider took; empty where this ONNX Runtime is too old to tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    return [
        f"{node.name} ({node.op_type})"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
    ]


def _provider(
    name: str,
    device: int,
    file: Path,
    inputs: tuple[TensorSpec, ...],
    options: EngineOptions,
    *,
    graphs: bool,
) -> Provider:
    if name == CUDA:
        return name, {
            "device_id": str(device),
            # The provider's default for FP32 is TF32.
            "use_tf32": "0",
            # The default tries every algorithm at the first run of each batch size.
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": "1" if graphs else "0",
        }
    if name == TENSORRT:
        return name, _tensorrt_options(device, file, inputs, options)
    return name, {}


def _tensorrt_options(
    device: int, file: Path, inputs: tuple[TensorSpec, ...], options: EngineOptions
) -> dict[str, str]:
    def shapes(rows: int) -> str:
        return ",".join(
            f"{spec.name}:{'x'.join(str(dim) for dim in (rows, *spec.shape[1:]))}"
            for spec in inputs
        )

    chosen = {
        "device_id": str(device),
        "trt_cuda_graph_enable": "0",
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(options.max_batch_size),
        "trt_profile_max_shapes": shapes(options.max_batch_size),
        # TensorRT 10 needs the switch of the file's own type; TensorRT 11 ignores them.
        "trt_fp16_enable": "1" if options.precision == "fp16" else "0",
        "trt_int8_enable": "1" if options.precision == "int8" else "0",
    }
    if options.cache_dir is not None:
        shared = options.cache_dir / "onnxruntime-tensorrt"
        # The provider recognises a cached engine by the file's name and structure, not its weights.
        folder = shared / content_digest(file)
        folder.mkdir(parents=True, exist_ok=True)
        chosen |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(shared),
        }
    return chosen

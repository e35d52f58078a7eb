"""ONNX Runtime on CPU."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.tensor import Array, TensorSpec
from serving.engines.engine import EngineOptions

VERSION: str = onnxruntime.__version__

# Otherwise ONNX Runtime would report its use to its makers.
onnxruntime.disable_telemetry_events()

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntimeEngine:
    """An inference session on the CPU provider; a session may run several calls at once."""

    name = "onnxruntime"
    device_bytes = 0
    largest_batch = 0
    check_rows = 1
    overlap_rows = 0

    def __init__(self, file: Path, options: EngineOptions) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), session_settings(options.threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineUnavailable(f"{file}: ONNX Runtime cannot load it: {error}") from error
        self.inputs, self.outputs = specs(file, self._session)
        self._output_names = [spec.name for spec in self.outputs]

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Plain memory: the CPU provider reads numpy arrays in place."""
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch. Raises EngineError."""
        try:
            outputs = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # the binding raises its own unrelated types
            raise EngineError(f"ONNX Runtime: {error}") from error
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Frees the session."""
        del self._session


def session_settings(threads: int) -> onnxruntime.SessionOptions:
    """Options of every session, on the CPU and on GPUs."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Otherwise idle threads would spin and take cores from decoding and from other models.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It gives the padding of a Pad with 0 to a MaxPool behind, which pads with the least value.
    settings.add_session_config_entry("optimization.disable_specified_optimizers", "Pad_Fusion")
    settings.log_severity_level = 3
    return settings


def specs(
    file: Path, session: onnxruntime.InferenceSession
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a session. Raises EngineUnavailable for an unknown element type."""
    return (
        tuple(_spec(file, arg) for arg in session.get_inputs()),
        tuple(_spec(file, arg) for arg in session.get_outputs()),
    )


def _spec(file: Path, arg: onnxruntime.NodeArg) -> TensorSpec:
    if arg.type not in _DATATYPES:
        raise EngineUnavailable(f"{file}: {arg.name}: element type {arg.type} is not served")
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else -1 for dim in arg.shape)
    return TensorSpec(arg.name, _DATATYPES[arg.type], shape)

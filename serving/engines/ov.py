"""OpenVINO on CPU."""

import queue
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from serving.engines.engine import EngineOptions
from serving.errors import EngineError, EngineUnavailable
from serving.tensor import Array, TensorSpec

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


class OpenVinoEngine:
    """A compiled model with as many infer requests as calls may run at once."""

    name = "openvino"

    def __init__(self, file: Path, options: EngineOptions) -> None:
        settings: dict[str, Any] = {
            # Explicit, since the default is bf16 on some CPUs: precision is part of the variant.
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "NUM_STREAMS": options.instances,
            "INFERENCE_NUM_THREADS": options.threads * options.instances,
            "ENABLE_CPU_PINNING": False,
            # What it prepares for a layer at a batch size is kept, by default for 5,000 of both:
            # ResNet-50 would grow by 170 MB until every size up to 32 had come. This many are
            # those of a few sizes, and a load keeps to a few.
            "CPU_RUNTIME_CACHE_CAPACITY": 192,
        }
        if options.cache_dir is not None:
            settings[properties.cache_dir()] = str(options.cache_dir)
        try:
            core = openvino.Core()
            compiled = core.compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            raise EngineUnavailable(f"{file}: OpenVINO cannot load it: {error}") from error
        self.inputs = tuple(_spec(file, port) for port in compiled.inputs)
        self.outputs = tuple(_spec(file, port) for port in compiled.outputs)
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(options.instances):
            self._requests.put(compiled.create_infer_request())

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """Plain memory: the CPU plugin reads numpy arrays in place."""
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See Engine.infer."""
        request = self._requests.get()
        try:
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            # One copy: the request's own tensors are overwritten by its next call.
            return {
                spec.name: np.array(request.get_output_tensor(index).data)
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise EngineError(f"OpenVINO: {error}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """See Engine.close."""
        self._requests = queue.SimpleQueue()


def _spec(file: Path, port: openvino.ConstOutput) -> TensorSpec:
    datatype = _DATATYPES.get(port.element_type)
    if datatype is None:
        name = port.element_type.get_type_name()
        raise EngineUnavailable(f"{file}: {port.any_name}: element type {name} is not served")
    if port.partial_shape.rank.is_dynamic:
        raise EngineUnavailable(f"{file}: {port.any_name}: the number of dimensions is not known")
    shape = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
    return TensorSpec(port.any_name, datatype, shape)

"""Tensors of every datatype, the requests that bring them, and what is read of these."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from protos.gen import grpc_service_pb2 as pb
from protos.gen import model_config_pb2
from serving.base.metrics import FrontMetrics
from serving.base.tensor import NUMPY_TYPES, Array, TensorSpec
from serving.base.turns import Turns
from serving.models.facts import ModelFacts
from serving.repository.model_config import from_proto
from serving.server.endpoints import raw_tensors
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.oip import (
    InferRequest,
    OpenInference,
)
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from serving.server.rpc.codec import decode_request, read_head
from serving.server.rpc.request_parts import read_request

# Two rows of three elements that span each type's range.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, False, False, True],
    "UINT8": [0, 1, 2, 127, 128, 255],
    "UINT16": [0, 1, 255, 256, 32768, 65535],
    "UINT32": [0, 1, 65535, 65536, 2**31, 2**32 - 1],
    "UINT64": [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1],
    "INT8": [-128, -1, 0, 1, 2, 127],
    "INT16": [-32768, -1, 0, 1, 256, 32767],
    "INT32": [-(2**31), -1, 0, 1, 65536, 2**31 - 1],
    "INT64": [-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1],
    "FP16": [-65504.0, -0.5, 0.0, 1.0, 1.5, 65504.0],
    "BF16": [0x0000, 0x3F80, 0xBF80, 0x7F7F, 0x4049, 0xFFFF],
    "FP32": [-3.4e38, -0.5, 0.0, 1e-30, 1.5, 3.4e38],
    "FP64": [-1e300, -0.5, 0.0, 1e-300, 1 / 3, 1e300],
    "BYTES": [b"", b"a", b"\x00\xff", b"four", b"\xd8" * 300, "é".encode()],
}
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def array_of(datatype: str) -> Array:
    array = np.empty(6, NUMPY_TYPES[datatype])
    array[:] = VALUES[datatype]
    return array.reshape(2, 3)


def raw_request(datatype: str, shape: list[int], data: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    request.raw_input_contents.append(data)
    return request


def typed_request(datatype: str, shape: list[int], **contents: list[Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    tensor.contents.SetInParent()
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


def model_for(request: pb.ModelInferRequest) -> ModelFacts:
    """A model that takes what a request declares; only its outputs are given."""
    kinds = {tensor.name: tensor for tensor in request.inputs}
    inputs = tuple(
        TensorSpec(name, tensor.datatype, (-1,) * len(tensor.shape))
        for name, tensor in kinds.items()
    )
    outputs = tuple(TensorSpec(name, "FP32", (4,)) for name in ("logits", "mask"))
    config = from_proto(model_config_pb2.ModelConfig(platform="fake"), Path("m") / "config.pbtxt")
    return ModelFacts(config, "3", "fake", "fp32", None, inputs, outputs)


def server(max_message: int = 1 << 20) -> OpenInference:
    everybody = Admin("open", explicit=True, memory=True)
    tracer = Tracer(FilesFolder(None), FrontMetrics().write_failures)
    return OpenInference(SharedMemory("convserve"), tracer, everybody, max_message, Turns())


def to_raw(array: Array) -> bytes:
    return bytes(asyncio.run(raw_tensors.to_raw(array, Turns())))


def decoded_of(request: pb.ModelInferRequest, facts: ModelFacts) -> InferRequest:
    async def run() -> InferRequest:
        front: Any = SimpleNamespace(take=lambda use, size: None)
        read = read_request(request.SerializeToString())
        head = read_head(read)
        call = InferenceCall(front, "ModelInfer", lambda: None, 0, math.inf)
        return await decode_request(read, head, call, facts, server())

    return asyncio.run(run())


def call_of(request: pb.ModelInferRequest) -> InferRequest:
    return decoded_of(request, model_for(request))

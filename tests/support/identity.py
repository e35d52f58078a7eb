"""Networks that give back what they get: one input and one output for each datatype."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def _integers(dtype: type[np.integer[Any]]) -> np.ndarray[Any, Any]:
    limits = np.iinfo(dtype)
    return np.array([limits.min, 0, 7, limits.max], dtype)


# Four elements of each: the extremes of the integers, numbers that the floats hold exactly.
VALUES: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([True, False, False, True]),
    "UINT8": _integers(np.uint8),
    "UINT16": _integers(np.uint16),
    "UINT32": _integers(np.uint32),
    "UINT64": _integers(np.uint64),
    "INT8": _integers(np.int8),
    "INT16": _integers(np.int16),
    "INT32": _integers(np.int32),
    "INT64": _integers(np.int64),
    "FP16": np.array([-2.5, 0.0, 2**-14, 65504.0], np.float16),
    "BF16": np.array([-2.5, 0.0, 2.0**-126, 2.0**127], ml_dtypes.bfloat16),
    "FP32": np.array([-2.5, 0.0, 0.1, 3.4e38], np.float32),
    "FP64": np.array([-2.5, 0.0, 0.1, 1.7e308], np.float64),
    "BYTES": np.array([b"", b"text", "Grüße ☃".encode(), b"nul\x00byte"], np.object_),
}


def publish_identity(
    repository: Path, name: str, kinds: Sequence[str], *, max_batch_size: int = 0
) -> None:
    """Writes a model without a manifest: in_KIND to out_KIND, four elements a row where it
    batches, any number where it does not."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    shape: list[str | int] = ["rows", 4] if max_batch_size else ["elements"]

    def infos(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(f"{prefix}_{kind}", ELEMENTS[kind], shape)
            for kind in kinds
        ]

    nodes = [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in kinds]
    body = helper.make_graph(nodes, name, infos("in"), infos("out"))
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=8), folder / "model.onnx")
    config = 'platform: "onnxruntime_onnx"\n' + identity_config(kinds, max_batch_size)
    (repository / name / "config.pbtxt").write_text(config)


def identity_config(kinds: Sequence[str], max_batch_size: int = 0) -> str:
    """config.pbtxt of an identity model, but for what runs it."""
    dims = 4 if max_batch_size else -1
    lines = [f"max_batch_size: {max_batch_size}"]
    for kind in kinds:
        data_type = "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}"
        for field, prefix in (("input", "in"), ("output", "out")):
            lines.append(f'{field} {{ name: "{prefix}_{kind}" data_type: {data_type}')
            lines.append(f"  dims: [{dims}] }}")
    return "\n".join(lines) + "\n"

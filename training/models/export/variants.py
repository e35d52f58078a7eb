"""The variants of a network: their names, their files, and the precision that each computes in."""

from typing import Literal

from serving.repository.manifest import Precision

# Rounding of activations in INT8: signed, unsigned, or unsigned with reduced range.
Scheme = Literal["s8", "u8", "u8-rr"]

FP32_FILE = "model.onnx"
SCHEMES: dict[str, Scheme] = {"int8-s8": "s8", "int8-u8": "u8", "int8-u8-rr": "u8-rr"}
FLOATS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


def onnx_file(variant: str) -> str:
    """The name of a variant's file; bf16 runs the FP32 file."""
    return FP32_FILE if variant in ("fp32", "bf16") else f"model.{variant}.onnx"


def precision_of(variant: str) -> Precision:
    """The precision that a variant computes in."""
    return "int8" if variant in SCHEMES else FLOATS[variant]

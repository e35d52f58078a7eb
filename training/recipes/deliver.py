"""Export, the gate, and the settings of the published model."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipes.fields import Fraction, PositiveInt, Strict

VariantId = Literal["fp32", "fp16", "bf16", "int8-s8", "int8-u8", "int8-u8-rr"]


class TensorRt(Strict):
    """Plans for the GPU that this build runs on, each beside the ONNX variant that it is made of.

    variants: those to build plans of.
    usual_batch: batch size that the plans are optimised for; by default publish.max_batch_size.
    workspace_mib: most GPU memory that a layer may work in.
    """

    variants: Annotated[tuple[Literal["fp32", "fp16", "int8-s8"], ...], Field(min_length=1)] = (
        "fp16",
    )
    usual_batch: PositiveInt | None = None
    workspace_mib: PositiveInt | None = None


class Export(Strict):
    """The exported variants.

    variants: bf16 has no file, OpenVINO runs the FP32 file in that precision. int8-s8 is symmetric
        (TensorRT, OpenVINO), int8-u8 asymmetric (ONNX Runtime on x86); int8-u8-rr also has weights
        of 7 bits, for x86 without VNNI, where sums of 8-bit products overflow. fp16 is for GPUs; it
        is no faster on CPUs.
    opset: of the ONNX files.
    tensorrt: plans to build besides.
    """

    variants: tuple[VariantId, ...] = ("fp32",)
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    tensorrt: TensorRt | None = None

    @model_validator(mode="after")
    def _fp32_is_the_reference(self) -> "Export":
        if "fp32" not in self.variants:
            raise ValueError("variants must hold fp32: it is what the others are compared with")
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants holds one twice: {', '.join(self.variants)}")
        for variant in self.tensorrt.variants if self.tensorrt else ():
            if variant not in self.variants:
                raise ValueError(f"tensorrt.variants holds {variant}, which variants does not")
        return self


class Verify(Strict):
    """The gate, judged on the test split against the trained network in FP32 before pruning.

    max_drop: largest loss of accuracy (top-1, mean IoU, foreground IoU or rank-1; 0.01 is one
        point).
    min_agreement: smallest share of equal answers.
    min_accuracy: smallest accuracy. Unless it is 0, the interval of the accuracy must also lie
        above chance, that of the best constant answer.
    batch_sizes: those at which latency is measured.
    latency_seconds: time of the measurement at each batch size.
    beta: of the F-beta in the report; above 1, recall counts more than precision.
    """

    max_drop: Fraction = 0.01
    min_agreement: Fraction = 0.0
    min_accuracy: Fraction | None = None
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 32)
    latency_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 0.5
    beta: Annotated[float, Field(gt=0.0)] = 2.0


class Publish(Strict):
    """Settings of the server, written to config.pbtxt; and who signs.

    max_batch_size: rows of the largest batch.
    max_queue_delay_microseconds: how long a batch may wait for more rows when it could start.
    instances: batches that may run at a time.
    sign_key: PEM file of the Ed25519 key that signs the version, for servers with
        --require-signature. The passphrase of an encrypted one comes from
        CONVSERVE_SIGN_PASSPHRASE.
    """

    max_batch_size: PositiveInt = 32
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0
    instances: PositiveInt = 1
    sign_key: Path | None = None

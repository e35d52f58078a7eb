"""What the stages found out, as it is kept in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serving.manifest import Estimate, Evidence

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlanOrigin(_Frozen):
    """What a TensorRT plan is tied to."""

    tensorrt_version: str
    compute_capability: str
    driver: str


class VariantFile(_Frozen):
    """A file and the precision that it shall run in; `plan` where it is TensorRT's."""

    id: str
    path: Path
    precision: Precision
    calibration_sha256: str | None = None
    plan: PlanOrigin | None = None


class NetworkSize(_Frozen):
    """Learnable values, and multiply-accumulates for one image."""

    parameters: int
    macs: int


class VariantResult(_Frozen):
    """What was measured of one variant: evidence by engine, and why other engines have none.

    `sha256` and `size_bytes` are the file's.
    """

    id: str
    file: str
    precision: Precision
    sha256: str
    size_bytes: int
    calibration_sha256: str | None
    plan: PlanOrigin | None = None
    evidence: Mapping[str, Evidence]
    skipped: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether it may be served by at least one engine."""
        return any(evidence.gate.passed for evidence in self.evidence.values())


class Verification(_Frozen):
    """The verify stage's findings. `baseline` is the trained network in FP32, before pruning, in
    torch; drop and agreement of every variant refer to it. `pictured` names the variant and engine
    whose answers the report shows."""

    measure: Literal["top1", "miou"]
    baseline: Estimate
    baseline_size: NetworkSize
    network_size: NetworkSize
    variants: tuple[VariantResult, ...]
    pictured: tuple[str, str]
    machine: str

"""What the stages found out, as it is kept in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serving.base.evaluation import Estimate
from serving.repository.manifest import Evidence
from training.models.export.variants import Precision


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


class ClassMeasures(_Frozen):
    """Of one class against all others; None where it has no examples, or, for the average precision
    and AUC, where answers are not ranked (masks, but for the foreground of binary ones)."""

    name: str
    precision: float
    recall: float
    specificity: float
    f1: float
    f_beta: float
    iou: float | None
    average_precision: float | None
    auc: float | None
    support: int


class Measures(_Frozen):
    """Of the pictured variant's answers. `beta` is that of F-beta; top5 is None where there are no
    more than five classes, or answers are masks."""

    beta: float
    top5: Estimate | None
    expected_calibration_error: float
    classes: tuple[ClassMeasures, ...]


class Identification(_Frozen):
    """Of the pictured variant's embeddings: area under the ROC, its true accept rates at some false
    accept rates, and the cumulative match characteristic, rank-1 first."""

    auc: float
    false_accept_rates: tuple[float, ...]
    true_accept_rates: tuple[float, ...]
    match_rates: tuple[Estimate, ...]


class Verification(_Frozen):
    """The verify stage's findings. `baseline` is the trained network in FP32, before pruning, in
    torch; drop and agreement of every variant refer to it. `pictured` names the variant and engine
    whose answers the report shows, and whose `measures`, or `identification`, these are."""

    measure: Literal["top1", "miou", "iou", "rank1"]
    baseline: Estimate
    baseline_size: NetworkSize
    network_size: NetworkSize
    variants: tuple[VariantResult, ...]
    pictured: tuple[str, str]
    machine: str
    measures: Measures | None = None
    identification: Identification | None = None


class Point(_Frozen):
    """What a search varies: a network by name, the share of its channels that go, the variant."""

    network: str
    ratio: float
    variant: str


class Tried(_Frozen):
    """A point and what was measured of it: how far it is below the recipe's own network in FP32 on
    validation images (0.01 is one point), and milliseconds of a call."""

    point: Point
    drop: float
    milliseconds: float


class Searched(_Frozen):
    """Everything that a search tried, the point that it chose, its bound as the user wrote it, and
    what the latency was measured with."""

    tried: tuple[Tried, ...]
    chosen: Point
    bound: str
    measured: str

    def front(self) -> list[Tried]:
        """The points that no other beats in both, the fastest first."""
        front: list[Tried] = []
        for trial in sorted(self.tried, key=lambda one: (one.milliseconds, one.drop)):
            if not front or trial.drop < front[-1].drop:
                front.append(trial)
        return front

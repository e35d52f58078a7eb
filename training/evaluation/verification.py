"""The findings of the verify stage, as they are kept in the run folder and drawn in the report."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from serving.base.evaluation import Estimate
from serving.base.task import Measure
from serving.repository.manifest import Evidence, Precision


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlanOrigin(_Frozen):
    """The things that a TensorRT plan is tied to."""

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
    """The measurements of one variant.

    sha256, size_bytes: the file's.
    evidence: by engine.
    skipped: why other engines have none.
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
    """One class against all others. None where it has no examples; average_precision and auc also
    where answers are not ranked (masks, but for the foreground of binary ones)."""

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
    """Measures of the pictured variant's answers.

    beta: that of F-beta.
    top5: None where there are no more than five classes, or answers are masks.
    """

    beta: float
    top5: Estimate | None
    expected_calibration_error: float
    classes: tuple[ClassMeasures, ...]


class Identification(_Frozen):
    """Curves of the pictured variant's embeddings.

    auc: area under the ROC.
    true_accept_rates: those at `false_accept_rates`.
    match_rates: the cumulative match characteristic, rank-1 first.
    """

    auc: float
    false_accept_rates: tuple[float, ...]
    true_accept_rates: tuple[float, ...]
    match_rates: tuple[Estimate, ...]


class Verification(_Frozen):
    """The verify stage's findings.

    baseline: accuracy of the trained network in FP32, before pruning; drop and agreement of every
        variant refer to it.
    baseline_engine: runs that network: torch, or what a file that came trained is made for.
    baseline_latency, baseline_bytes: of that network's FP32 file: milliseconds of a call by engine
        and batch size. Runs of older versions have none.
    baseline_size, network_size: of that network, and of the exported one.
    pictured: the variant and engine whose answers the report shows.
    measures, identification: of those answers, as far as the task has them.
    """

    measure: Measure
    baseline: Estimate
    baseline_engine: str = "torch"
    baseline_latency: Mapping[str, Mapping[int, float]] = {}
    baseline_bytes: int | None = None
    baseline_size: NetworkSize
    network_size: NetworkSize
    variants: tuple[VariantResult, ...]
    pictured: tuple[str, str]
    machine: str
    measures: Measures | None = None
    identification: Identification | None = None

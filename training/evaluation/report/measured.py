"""The part of report.json that the verify stage measured; the bounds of all parts."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.base.errors import quoted
from serving.base.evaluation import Estimate
from serving.base.text import printable
from serving.repository.manifest import Evidence

MOST_CLASSES = 60
"""Classes that a page lists; of more it has the worst. Larger makes pages longer."""
MATRIX_CLASSES = 25
"""Most classes of a matrix in which numbers can still be read."""
MOST_PAIRS = 30
"""Pairs of classes that are listed as mistaken for each other."""
MOST_LAYERS = 60
"""Layers that a sensitivity lists; of more it has the most sensitive."""
MOST_TRIED = 400
"""Points of a search that a page draws."""
MOST_EPOCHS = 400
"""Epochs of a curve; of more every second, third, ... is kept."""

# Characters of a name of a class, layer or file, and of a sentence. A page has a few thousand.
NAME_LENGTH = 120
TEXT_LENGTH = 1000
# Batch sizes of a latency, and the longest: four months.
_MOST_SIZES, _MOST_MILLISECONDS = 1024, 1e10

Name = Annotated[str, Field(max_length=NAME_LENGTH)]
Text = Annotated[str, Field(max_length=TEXT_LENGTH)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Curve = Annotated[tuple[float | None, ...], Field(max_length=MOST_EPOCHS)]
Milliseconds = Mapping[int, float]


def as_name(content: str) -> str:
    """A name as a page shows it: in one line, its middle left out where it is long."""
    return printable(content, NAME_LENGTH)


def as_text(content: str) -> str:
    """A sentence, likewise."""
    return printable(content, TEXT_LENGTH)


class Part(BaseModel):
    """A part of report.json; a newer version may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def require_alike(**curves: Sequence[object]) -> None:
    """Raises ValueError unless all curves, which are drawn against each other, are of one length,
    and not empty."""
    lengths = {name: len(curve) for name, curve in curves.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"expected the same number of values, and at least one, got {told}")


class Measured(Part):
    """A variant in an engine."""

    variant: Name
    engine: Name
    precision: Name
    size_bytes: Count | None
    evidence: Evidence

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        for key in ("accuracy", "drop"):
            found: Estimate = getattr(self.evidence, key)
            if any(abs(share) > 1 for share in (found.value, found.low, found.high)):
                raise ValueError(f"evidence.{key}: expected shares up to 1, got {found}")
        times = self.evidence.latency.milliseconds
        if len(times) > _MOST_SIZES or not all(
            0 <= x <= _MOST_MILLISECONDS for x in times.values()
        ):
            raise ValueError(
                f"evidence.latency.milliseconds: expected at most {_MOST_SIZES} batch sizes, each "
                f"with 0 to {_MOST_MILLISECONDS:g}, got {quoted(dict(times))}"
            )
        return self

    @property
    def title(self) -> str:
        return f"{self.variant} in {self.engine}"


Entries = Annotated[tuple[Measured, ...], Field(max_length=400)]


class Previous(Part):
    """The version that was published before.

    other: why its accuracy cannot be compared; empty where it can.
    """

    version: Count
    created: Name
    other: Text
    entries: Entries


class Size(Part):
    """Learnable values, and multiply-accumulates for one image."""

    parameters: Count
    macs: Count


class ClassRow(Part):
    """One class against all others; None where there is nothing to measure."""

    name: Name
    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    f_beta: float | None
    iou: float | None
    average_precision: float | None
    auc: float | None
    support: Count


class Confused(Part):
    """A class that was taken for another: images or pixels, and their share of the class."""

    true: Name
    answer: Name
    count: Count
    share: Share


class Matrix(Part):
    """A confusion matrix; rows are the true classes."""

    classes: Annotated[tuple[Name, ...], Field(max_length=MATRIX_CLASSES)]
    counts: Annotated[tuple[tuple[Count, ...], ...], Field(max_length=MATRIX_CLASSES)]

    @model_validator(mode="after")
    def _square(self) -> Self:
        require_alike(classes=self.classes, counts=self.counts)
        for row in self.counts:
            require_alike(classes=self.classes, row=row)
        return self


class Reliability(Part):
    """Answers in bins of equal width by confidence: the share that is right, and their number."""

    accuracy: Curve
    count: Curve

    @model_validator(mode="after")
    def _of_the_same_bins(self) -> Self:
        require_alike(accuracy=self.accuracy, count=self.count)
        return self


class Ranked(Part):
    """A class, or the mean of all, against the rest: precision over recall, and recall over the
    false positive rate, at equal steps from 0 to 1."""

    name: Name
    precision: Curve
    recall: Curve

    @model_validator(mode="after")
    def _at_the_same_steps(self) -> Self:
        require_alike(precision=self.precision, recall=self.recall)
        return self


class Classes(Part):
    """The classes' measures.

    count: number of all classes; `rows` has those with the lowest recall or IoU where it has less.
    unit: of a confusion matrix.
    beta: that of F-beta.
    matrix: None where there are too many classes.
    confused: most frequent first.
    """

    count: Count
    unit: Literal["images", "pixels"]
    beta: float
    top5: Estimate | None
    expected_calibration_error: float
    rows: Annotated[tuple[ClassRow, ...], Field(max_length=MOST_CLASSES)]
    matrix: Matrix | None
    confused: Annotated[tuple[Confused, ...], Field(max_length=MOST_PAIRS)]
    reliability: Reliability
    ranked: Annotated[tuple[Ranked, ...], Field(max_length=16)]

    @model_validator(mode="after")
    def _at_the_same_steps(self) -> Self:
        if self.ranked:
            require_alike(**{f"ranked.{n}": one.recall for n, one in enumerate(self.ranked)})
        return self


class Pairs(Part):
    """The curves of embeddings.

    same, other: shares of the pairs of one identity, and of two, in equal bins of their cosine from
        -1 to 1.
    auc: area under the ROC, of which some points follow.
    match_rates: the cumulative match characteristic, rank-1 first.
    """

    same: Curve
    other: Curve
    auc: float
    false_accept_rates: Curve
    true_accept_rates: Curve
    match_rates: Annotated[tuple[Estimate, ...], Field(max_length=100)]

    @model_validator(mode="after")
    def _at_the_same_places(self) -> Self:
        require_alike(same=self.same, other=self.other)
        require_alike(
            false_accept_rates=self.false_accept_rates, true_accept_rates=self.true_accept_rates
        )
        return self


class Answer(Part):
    """An answer that is pictured.

    name: the image's.
    truth, answer: classes; of a mask those that it has; of an embedding the nearest image.
    confidence: of the class or mask; of an embedding the cosine.
    score: 1 is right and 0 wrong, for masks the image's own IoU.
    best: the most probable classes.
    """

    name: Name
    truth: Text
    answer: Text
    confidence: float
    score: float
    best: Annotated[tuple[tuple[Name, float], ...], Field(max_length=5)] = ()


class Verified(Part):
    """The findings of the verify stage.

    dataset, images: the test split that all figures are of.
    baseline: accuracy of the network before pruning, in FP32, run by `baseline_engine`.
    baseline_latency, baseline_bytes: of its file; latency by engine, empty where an older version
        built the run.
    shown: variant and engine whose answers the page shows: the fastest that passed.
    skipped: the variants that were not measured, by reason.
    """

    dataset: Text
    images: Count
    machine: Text
    baseline: Estimate
    baseline_engine: Name
    baseline_latency: Mapping[Name, Milliseconds]
    baseline_bytes: Count | None
    baseline_size: Size
    network_size: Size
    entries: Entries
    shown: tuple[Name, Name]
    skipped: Mapping[Text, tuple[Name, ...]]
    classes: Classes | None
    pairs: Pairs | None
    answers: Annotated[tuple[Answer, ...], Field(max_length=24)]

    @property
    def best(self) -> Measured | None:
        """The measurements of `shown`."""
        found = (one for one in self.entries if (one.variant, one.engine) == self.shown)
        return next(found, None)

"""report.json: all numbers that the page of a run shows, and their only source.

It lists no more classes, layers and trials than a page can show; metrics.json and data.json have
all.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from serving.base.task import Measure, Task
from training.evaluation.report.measured import (
    MOST_CLASSES,
    MOST_LAYERS,
    MOST_PAIRS,
    Count,
    Curve,
    Name,
    Part,
    Previous,
    Text,
    Verified,
    require_alike,
)
from training.evaluation.searched import Searched

SCHEMA_VERSION = "1.0"


class State(Part):
    """How far the build came.

    kind: published; done up to the last stage that was asked for; refused by the gate; failed or
        interrupted in `stage`; or under way in it, where it was killed unless it still runs.
    stage: the last stage, or the one that did not end.
    reason: of a build that was refused or failed.
    """

    kind: Literal["published", "done", "refused", "failed", "interrupted", "under way"]
    stage: Name
    reason: Text = ""

    def __str__(self) -> str:
        match self.kind:
            case "published":
                return "published"
            case "done":
                return f"done up to {self.stage}, not published"
            case "refused":
                return "refused by the gate"
            case "under way":
                return f"not finished: under way or cut off in {self.stage}"
            case kind:
                return f"not finished: {kind} in {self.stage}"


class Published(Part):
    """A version in a repository."""

    repository: Text
    version: Count


class Stage(Part):
    """A stage that is done."""

    name: Name
    seconds: float


class Training(Part):
    """The curves of a stage that trains, by epoch. Shares are of 1."""

    stage: Name
    epochs: Curve
    loss: Curve
    val_loss: Curve
    score: Curve
    measure: Measure
    count: Count
    last: float | None
    best: float | None
    seconds: float

    @model_validator(mode="after")
    def _by_epoch(self) -> Self:
        curves = {"loss": self.loss, "val_loss": self.val_loss}
        told = {name: curve for name, curve in curves.items() if curve}
        require_alike(epochs=self.epochs, score=self.score, **told)
        return self


class Sensitivity(Part):
    """The share of answers that change when a layer alone is changed, the largest first."""

    stage: Name
    title: Text
    images: Count
    layers: Annotated[tuple[tuple[Name, float], ...], Field(max_length=MOST_LAYERS)]
    count: Count
    left_alone: Annotated[tuple[Name, ...], Field(max_length=MOST_LAYERS)]


class ClassCount(Part):
    """Images of a class in each split; with masks its share of the pixels."""

    name: Name
    train: float
    val: float
    test: float


class Data(Part):
    """The findings of the data stage.

    sha256: of the source, its files and its splits: equal data have equal ones; empty where an
        older version built the run.
    images: by split.
    classes: the largest and the smallest where there are more than a page lists; `class_count` is
        the number of all.
    sizes: of the files: height and width in the middle, and those that the network sees.
    examples: the classes of the rows of examples, and the images in each.
    duplicates: pairs of images in two splits, by kind.
    """

    description: Text
    sha256: Name
    images: Mapping[Name, Count]
    unit: Literal["images", "pixels"]
    classes: Annotated[tuple[ClassCount, ...], Field(max_length=MOST_CLASSES)]
    class_count: Count
    median: tuple[Count, Count]
    seen: tuple[Count, Count]
    examples: Annotated[tuple[tuple[Name, Count], ...], Field(max_length=64)]
    warnings: Annotated[tuple[Text, ...], Field(max_length=64)]
    duplicates: Mapping[
        Name, Annotated[tuple[tuple[Name, Name], ...], Field(max_length=MOST_PAIRS)]
    ]


class Environment(Part):
    """The software and hardware of the build."""

    python: Name
    system: Name
    machine: Text
    engines: Mapping[Name, Name]
    packages: Mapping[Name, Name]


class Report(Part):
    """The whole of report.json.

    created: when a build last changed something in it, ISO 8601 in UTC.
    state: how far the build came.
    input_size, channels: of the images that the network sees; height and width.
    published: the version that this run stands for; None where it published none.
    previous: the version before it, or the newest one where it published none.
    verified: None where the verify stage has not run.
    """

    schema_version: Name = SCHEMA_VERSION
    created: Name
    name: Name
    state: State
    task: Task
    measure: Measure
    architecture: Name
    input_size: tuple[Count, Count]
    channels: Count
    seed: int
    recipe_sha256: Name
    recipe: Mapping[str, Any]
    published: Published | None
    previous: Previous | None
    data: Data
    verified: Verified | None
    training: Annotated[tuple[Training, ...], Field(max_length=16)]
    sensitivities: Annotated[tuple[Sensitivity, ...], Field(max_length=16)]
    notes: Annotated[tuple[Text, ...], Field(max_length=200)]
    searched: Searched | None
    stages: Annotated[tuple[Stage, ...], Field(max_length=16)]
    environment: Environment

"""A study file: the values to try, and how often. It holds no recipe; it is run on one."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from training.errors import RecipeError
from training.recipes import read_document
from training.recipes.fields import Name, PositiveInt, Strict
from training.recipes.problems import problems

# Values at dotted paths of a recipe.
Overrides = Mapping[str, Any]


class Choices(Strict):
    """One of `values`, of any kind; a plain list stands for this."""

    type: Literal["choices"]
    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> "Choices":
        if len(set(self.texts)) != len(self.values):
            raise ValueError(f"a value is listed twice: {', '.join(self.texts)}")
        return self

    def edges(self) -> list[Any]:
        """The values that must be valid for all to be."""
        return list(self.values)

    def grid(self) -> list[Any]:
        """All values."""
        return list(self.values)

    @property
    def texts(self) -> list[str]:
        """Every value as text, by which it is stored and shown."""
        return [text_of(value) for value in self.values]


class IntRange(Strict):
    """A whole number from low to high, both included, in steps; evenly spread, or its logarithm."""

    type: Literal["int"]
    low: int
    high: int
    step: PositiveInt = 1
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "IntRange":
        _check_range(self.low, self.high, log=self.log, stepped=self.step != 1)
        return self

    def edges(self) -> list[int]:
        """The values that must be valid for all to be."""
        return [self.low, self.high]

    def grid(self) -> list[int]:
        """All values."""
        return list(range(self.low, self.high + 1, self.step))


class FloatRange(Strict):
    """A number from low to high, both included; evenly spread, or its logarithm."""

    type: Literal["float"]
    low: float
    high: float
    step: Annotated[float, Field(gt=0.0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "FloatRange":
        _check_range(self.low, self.high, log=self.log, stepped=self.step is not None)
        return self

    def edges(self) -> list[float]:
        """The values that must be valid for all to be."""
        return [self.low, self.high]

    def grid(self) -> list[float] | None:
        """All values; None where they are not countable."""
        if self.step is None:
            return None
        # A millionth of a step makes up for the rounding of the quotient.
        steps = math.floor((self.high - self.low) / self.step + 1e-6)
        return [min(self.high, self.low + index * self.step) for index in range(steps + 1)]


def _check_range(low: float, high: float, *, log: bool, stepped: bool) -> None:
    if low >= high:
        raise ValueError(f"low must be under high, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"log: true needs a low above 0, got {low}")
    if log and stepped:
        raise ValueError("log: true has no step")


def _listed(value: object) -> object:
    return {"type": "choices", "values": value} if isinstance(value, list) else value


Values = Annotated[
    Annotated[Choices | IntRange | FloatRange, Field(discriminator="type")],
    BeforeValidator(_listed),
]


class Median(Strict):
    """Stops a trial that is worse, at the same epoch, than half of those before it; not among the
    first `startup_trials`, and not in the first `warmup_epochs` of a trial."""

    name: Literal["median"] = "median"
    startup_trials: Annotated[int, Field(ge=0)] = 5
    warmup_epochs: Annotated[int, Field(ge=0)] = 1


class Hyperband(Strict):
    """Successive halving over several budgets (arXiv 1603.06560): one in `reduction_factor` of the
    trials goes on at each rung; none stops before `min_epochs`."""

    name: Literal["hyperband"]
    min_epochs: PositiveInt = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class Search(Strict):
    """Which values make the validation score highest.

    until: the stage that is scored; of "prune", its fine-tuned network, and values of distill and
    prune may be searched. sampler: "grid" tries every combination, "random" draws each value by
    itself, "tpe" draws near those that did well (Bergstra et al., NeurIPS 2011). trials: how many;
    a grid without it tries all. pruner: which trials of the train stage end early; null lets all
    run to their end, as do trials of the stages behind it.
    """

    space: Annotated[Mapping[str, Values], Field(min_length=1)]
    until: Literal["train", "distill", "prune"] = "train"
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    trials: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    pruner: Annotated[Median | Hyperband, Field(discriminator="name")] | None = Median()

    @model_validator(mode="after")
    def _ends(self) -> "Search":
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials: missing; {self.sampler} needs to know how many")
        if self.until != "train" and self.pruner is not None and "pruner" in self.model_fields_set:
            raise ValueError(
                f"pruner: ends trials in the train stage, and until is {self.until}; leave it out"
            )
        endless = [path for path, values in self.space.items() if values.grid() is None]
        if self.sampler == "grid" and endless:
            raise ValueError(
                f"space.{endless[0]}: a grid needs a list of values, or a range with a step"
            )
        return self


class Ablation(Strict):
    """Each row is a name and what it changes in the recipe, or nothing; the first is what the
    others are compared with. Every row is trained with every seed."""

    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    rows: Annotated[Mapping[Name, Overrides], Field(min_length=1)]

    @model_validator(mode="after")
    def _pairs_are_clear(self) -> "Ablation":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds holds one twice: {', '.join(map(str, self.seeds))}")
        for name, overrides in self.rows.items():
            if "seed" in overrides:
                raise ValueError(f"rows.{name}.seed: every row has the same seeds, those of seeds")
        return self


class CrossValidation(Strict):
    """Every training and validation image validates once, in one of `folds` trainings."""

    folds: Annotated[int, Field(ge=2)]
    seed: int = 0


class StudyDefinition(Strict):
    """One kind of study."""

    search: Search | None = None
    ablation: Ablation | None = None
    cross_validation: CrossValidation | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "StudyDefinition":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "expected exactly one of search, ablation, cross_validation; "
                f"got {' and '.join(given) or 'none'}"
            )
        return self


def load_study(path: Path) -> StudyDefinition:
    """Reads a study file. Raises RecipeError naming the file, the key's path, the value and what
    was expected."""
    document = read_document(path)
    try:
        return StudyDefinition.model_validate(document)
    except ValidationError as error:
        found = problems(document, error, StudyDefinition)
        raise RecipeError(f"{path}: " + "; ".join(found)) from error


def text_of(value: object) -> str:
    """A value of a recipe in one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)

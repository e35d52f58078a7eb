"""The base of every section of a recipe, and types that several sections use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Pair = tuple[PositiveInt, PositiveInt]

STRICT = ConfigDict(frozen=True, extra="forbid")


class Strict(BaseModel):
    """A section: frozen; unknown keys are refused."""

    model_config = STRICT

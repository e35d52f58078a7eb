"""The base of every section of a recipe, and types that several sections use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Pair = tuple[PositiveInt, PositiveInt]

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Strict(BaseModel):
    """A section: frozen; unknown keys are refused, and numbers that are not finite."""

    model_config = STRICT

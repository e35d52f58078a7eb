"""The base of every section of a recipe, and fields and types that several sections use."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Pair = tuple[PositiveInt, PositiveInt]

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Strict(BaseModel):
    """A section: frozen; unknown keys are refused, and numbers that are not finite."""

    model_config = STRICT


class Cut(Strict):
    """Splits that a source lacks are cut from its training images, stratified by class.

    val_fraction, test_fraction: share of the training images that is cut.
    split_seed: decides which images are cut.
    """

    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: int = 0


class FolderData(Cut):
    """Folders train/, val/ and test/ are used as they are; missing ones are cut from train/, or
    from `root` where it has none of them. Valid/, validation/, Training/ and the like count too.

    root: relative to the working directory.
    test: the split that is evaluated on; with "val", validation images are cut from train.
    """

    root: Path
    test: Literal["test", "val"] = "test"

"""The recipe itself: its sections, and what one section asks of another."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipe.compress import Prune, Quantize
from training.recipe.data import (
    Augment,
    ClassificationData,
    Normalization,
    SegmentationData,
    Transform,
)
from training.recipe.deliver import Export, Publish, Verify
from training.recipe.fields import Strict
from training.recipe.loss import CrossEntropyDice
from training.recipe.model import ModelChoice
from training.recipe.train import Train


class _Recipe(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: int = 0
    transform: Transform
    normalization: Normalization = Normalization()
    augment: Augment = Augment()
    model: ModelChoice
    train: Train
    prune: Prune | None = None
    quantize: Quantize | None = None
    export: Export = Export()
    verify: Verify = Verify()
    publish: Publish = Publish()

    @model_validator(mode="after")
    def _only_squares_turn(self) -> "_Recipe":
        height, width = self.transform.size
        if self.augment.quarter_turns and height != width:
            raise ValueError(
                f"augment.quarter_turns: only square images can be turned, got {height}x{width}"
            )
        return self

    @model_validator(mode="after")
    def _usual_batch_fits(self) -> "_Recipe":
        plans, largest = self.export.tensorrt, self.publish.max_batch_size
        if plans is not None and plans.usual_batch is not None and plans.usual_batch > largest:
            raise ValueError(
                "export.tensorrt.usual_batch: expected at most publish.max_batch_size "
                f"({largest}), got {plans.usual_batch}"
            )
        return self

    @model_validator(mode="after")
    def _int8_needs_calibration(self) -> "_Recipe":
        int8 = [variant for variant in self.export.variants if variant.startswith("int8")]
        if int8 and self.quantize is None:
            raise ValueError(f"export.variants holds {', '.join(int8)}, so quantize must be given")
        if self.quantize is not None and not int8:
            raise ValueError(
                "quantize is given, but export.variants holds neither int8-s8 nor int8-u8"
            )
        return self


class ClassificationRecipe(_Recipe):
    """One class an image."""

    task: Literal["classification"]
    data: ClassificationData

    @model_validator(mode="after")
    def _losses_fit(self) -> "ClassificationRecipe":
        for path, train in _train_sections(self):
            if isinstance(train.loss, CrossEntropyDice):
                raise ValueError(
                    f"{path}.loss: cross_entropy_dice compares regions; classification has none"
                )
        return self


class SegmentationRecipe(_Recipe):
    """One class a pixel."""

    task: Literal["segmentation"]
    data: SegmentationData

    @model_validator(mode="after")
    def _answers_cover_the_image(self) -> "SegmentationRecipe":
        if self.transform.crop is not None:
            raise ValueError(
                "transform.crop: a segmentation answers for the whole image, and a crop would "
                "leave its border without one; give resize as [height, width]"
            )
        return self


Recipe = ClassificationRecipe | SegmentationRecipe


def _train_sections(recipe: _Recipe) -> list[tuple[str, Train]]:
    sections = [("train", recipe.train)]
    if recipe.prune is not None:
        sections.append(("prune.train", recipe.prune.train))
    return sections

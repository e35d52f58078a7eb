"""What training makes small."""

from typing import Annotated, Literal

from pydantic import Field

from training.recipe.fields import Strict


class CrossEntropy(Strict):
    """Softmax cross-entropy; `label_smoothing` spreads that share of the target over all classes
    (arXiv 1512.00567, §7)."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class CrossEntropyDice(Strict):
    """Cross-entropy plus `dice_weight` times the Dice loss: the second counts regions, not pixels,
    so that small objects weigh as much as large ones (arXiv 1606.04797)."""

    name: Literal["cross_entropy_dice"]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    dice_weight: Annotated[float, Field(gt=0.0)] = 1.0


Loss = Annotated[CrossEntropy | CrossEntropyDice, Field(discriminator="name")]

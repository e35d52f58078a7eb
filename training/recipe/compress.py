"""What makes a trained network smaller."""

from typing import Annotated, Literal

from pydantic import Field

from training.recipe.fields import PositiveInt, Strict
from training.recipe.train import Train


class Prune(Strict):
    """Removes whole channels. `ratio` is the share of the channels of every layer that may lose
    some; what stays is a multiple of `round_to`, which fast kernels need. `train` fine-tunes; what
    it leaves out is as in the recipe's own `train`."""

    ratio: Annotated[float, Field(gt=0.0, lt=1.0)]
    importance: Literal["l1", "l2"] = "l2"
    round_to: PositiveInt = 8
    train: Train


class Quantize(Strict):
    """INT8 after training: ranges are measured on `calibration_images` of the training split.

    calibrate: "minmax" keeps the extremes, "percentile" cuts the outermost 0.01 %.
    """

    method: Literal["ptq"] = "ptq"
    calibration_images: PositiveInt = 256
    calibrate: Literal["minmax", "percentile"] = "minmax"

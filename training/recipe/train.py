"""One run of the training loop."""

from typing import Literal

from training.recipe.fields import PositiveInt, Strict
from training.recipe.loss import CrossEntropy, Loss
from training.recipe.optimizer import Constant, Optimizer, Schedule


class Train(Strict):
    """One run of the training loop.

    precision: "auto" takes bf16 autocast where the hardware computes in it, else fp32. keep: which
    weights leave the stage; "last" suits schedules that end near a learning rate of 0, where a
    small validation set would pick among equals by chance.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    loss: Loss = CrossEntropy()
    optimizer: Optimizer
    schedule: Schedule = Constant()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keep: Literal["best", "last"] = "best"

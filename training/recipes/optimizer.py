"""Optimisers and learning rate schedules."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipes.fields import Fraction, PositiveInt, Strict

Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = tuple[Momentum, Momentum]


class _Optimizer(Strict):
    """Weight decay leaves out biases and norm layers.

    lr: highest rate of the schedule.
    weight_decay: pull of the weights towards 0; larger keeps them smaller.
    backbone_lr_factor: rate of the backbone (all but the head) over `lr`.
    """

    lr: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    backbone_lr_factor: Annotated[float, Field(gt=0.0)] = 1.0


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum, or with Nesterov's.

    momentum: decay of the running mean of gradients; 0 is plain descent.
    nesterov: looks ahead by the momentum.
    """

    name: Literal["sgd"]
    momentum: Momentum = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (arXiv 1711.05101).

    betas: decays of the running means of gradients and of their squares.
    """

    name: Literal["adamw"]
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: Betas = (0.9, 0.999)


class Adam(_Optimizer):
    """Adam (arXiv 1412.6980); weight decay is part of the gradient.

    betas: decays of the running means of gradients and of their squares.
    """

    name: Literal["adam"]
    betas: Betas = (0.9, 0.999)


class Adagrad(_Optimizer):
    """Rates fall with the sum of squared gradients (Duchi et al. 2011)."""

    name: Literal["adagrad"]


class RmsProp(_Optimizer):
    """Rates fall with a running mean of squared gradients (Hinton 2012).

    alpha: decay of the mean.
    momentum: decay of the running mean of steps; 0 for none.
    """

    name: Literal["rmsprop"]
    alpha: Momentum = 0.99
    momentum: Momentum = 0.0


class Adadelta(_Optimizer):
    """Steps have the units of the weights (arXiv 1212.5701, with a rate of 1).

    rho: decay of the running means.
    """

    name: Literal["adadelta"]
    rho: Momentum = 0.9


class _Warmed(Strict):
    """The rate rises linearly over the first `warmup_epochs`.

    warmup_epochs: epochs in which the rate rises.
    """

    warmup_epochs: Annotated[int, Field(ge=0)] = 0


class Constant(_Warmed):
    """The learning rate is constant."""

    name: Literal["constant"] = "constant"


class Step(_Warmed):
    """The rate is multiplied by `gamma` after every `step_size` epochs.

    step_size: epochs between two steps.
    gamma: factor of the rate at a step.
    """

    name: Literal["step"]
    step_size: PositiveInt
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class MultiStep(_Warmed):
    """The rate is multiplied by `gamma` after each of the epochs in `milestones`.

    milestones: epochs, rising.
    gamma: factor of the rate at a milestone.
    """

    name: Literal["multi_step"]
    milestones: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1

    @model_validator(mode="after")
    def _milestones_rise(self) -> "MultiStep":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        return self


class Cosine(_Warmed):
    """The rate falls to 0 by a cosine after the warm-up (arXiv 1608.03983)."""

    name: Literal["cosine"]


class Poly(_Warmed):
    """The rate falls by (1 - t)^power after the warm-up, t from 0 to 1 (arXiv 1606.00915, §4.1).

    power: 1 falls in a line; less keeps the rate high for longer.
    """

    name: Literal["poly"]
    power: Annotated[float, Field(gt=0.0)] = 0.9


class OneCycle(Strict):
    """The rate rises to the optimiser's lr by a cosine and falls to nearly 0 (arXiv 1708.07120).

    warmup: share of all steps in which it rises.
    """

    name: Literal["one_cycle"]
    warmup: Fraction = 0.3


Optimizer = Annotated[
    Sgd | AdamW | Adam | Adagrad | RmsProp | Adadelta, Field(discriminator="name")
]
Schedule = Annotated[
    Constant | Step | MultiStep | Cosine | OneCycle | Poly, Field(discriminator="name")
]

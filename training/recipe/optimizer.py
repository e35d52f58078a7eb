"""How weights change, and how fast over time."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipe.fields import Fraction, Strict


class Sgd(Strict):
    """Stochastic gradient descent with momentum; biases and norm layers are not decayed."""

    name: Literal["sgd"]
    lr: Annotated[float, Field(gt=0.0)]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamW(Strict):
    """Adam with decoupled weight decay (arXiv 1711.05101); biases and norm layers not decayed."""

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01


class Constant(Strict):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"


class OneCycle(Strict):
    """Cosine up to the optimiser's lr over the share `warmup` of all steps, then cosine down to
    nearly 0 (arXiv 1708.07120)."""

    name: Literal["one_cycle"]
    warmup: Fraction = 0.3


class Cosine(Strict):
    """Linear warm-up over `warmup_epochs`, then cosine down to 0 (arXiv 1608.03983)."""

    name: Literal["cosine"]
    warmup_epochs: Annotated[int, Field(ge=0)] = 0


Optimizer = Annotated[Sgd | AdamW, Field(discriminator="name")]
Schedule = Annotated[Constant | OneCycle | Cosine, Field(discriminator="name")]

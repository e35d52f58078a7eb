"""One run of the training loop."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.recipes.fields import PositiveInt, Strict
from training.recipes.loss import CrossEntropy, Loss
from training.recipes.optimizer import (
    Constant,
    MultiStep,
    OneCycle,
    Optimizer,
    Schedule,
    Step,
)


class Shuffled(Strict):
    """Every image once an epoch, in random order."""

    name: Literal["shuffled"] = "shuffled"


class Weighted(Strict):
    """As many images an epoch, drawn so that every class is equally frequent: images of a large
    class may be left out, those of a small class are repeated."""

    name: Literal["weighted"]


class Identities(Strict):
    """Batches for a triplet loss (arXiv 1703.07737).

    people: classes in a batch.
    pictures: images of each of them.
    """

    name: Literal["identities"]
    people: Annotated[int, Field(ge=2)]
    pictures: Annotated[int, Field(ge=2)]


Sampler = Annotated[Shuffled | Weighted | Identities, Field(discriminator="name")]
Alpha = Annotated[float, Field(gt=0.0)] | None


class Progressive(Strict):
    """Smaller images in the first epochs, which take less time (arXiv 2104.00298, §4).

    start: their sides in the first epoch, as a share of the whole.
    until: share of the epochs after which images are whole; in between they grow evenly.
    """

    start: Annotated[float, Field(ge=0.25, lt=1.0)] = 0.5
    until: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6


class Train(Strict):
    """One run of the training loop.

    epochs: passes over the training images.
    batch_size: images of all processes together.
    accumulate: batches that make one step.
    sampler: chooses the images of a batch.
    mixup_alpha: blends two images and their classes, by a share drawn from Beta(alpha, alpha)
        (arXiv 1710.09412); classification only.
    cutmix_alpha: puts a rectangle of one image into another, by a share drawn from
        Beta(alpha, alpha) (arXiv 1905.04899); classification only. With both, each batch takes one
        of the two at random.
    progressive: smaller images in the first epochs.
    auxiliary_weight: weight of the losses of a network's auxiliary heads.
    clip_norm: largest norm of the gradient.
    ema_decay: a running mean of the weights over the steps is measured and kept.
    batch_norm_images: after the last epoch batch norms take the statistics of so many training
        images, as they are, instead of the running mean of the last batches (arXiv 2105.07576, §3).
    patience: epochs without a better validation score after which training stops.
    freeze_backbone_epochs: first epochs, in which the head alone learns.
    precision: "auto" is bf16 autocast where the hardware computes in it, else fp32; fp16 autocast,
        with a scaled loss, is for GPUs only.
    keep: weights of the best or of the last epoch. "last" suits schedules that end near a learning
        rate of 0, where a small validation set would choose between equals by chance.
    checkpoint_minutes: a build that is interrupted in the middle of an epoch goes on from a
        checkpoint that is about so old at most.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt = 1
    sampler: Sampler = Shuffled()
    mixup_alpha: Alpha = None
    cutmix_alpha: Alpha = None
    progressive: Progressive | None = None
    loss: Loss = CrossEntropy()
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 0.4
    optimizer: Optimizer
    schedule: Schedule = Constant()
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    batch_norm_images: Annotated[int, Field(ge=64)] | None = None
    patience: PositiveInt | None = None
    freeze_backbone_epochs: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    keep: Literal["best", "last"] = "best"
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0

    @property
    def mixes(self) -> bool:
        """Whether images are blended, so that targets are probabilities."""
        return self.mixup_alpha is not None or self.cutmix_alpha is not None

    @model_validator(mode="after")
    def _all_of_it_happens(self) -> "Train":
        """Refuses epochs that the run does not reach."""
        late = {"freeze_backbone_epochs": self.freeze_backbone_epochs}
        if not isinstance(self.schedule, OneCycle):
            late["schedule.warmup_epochs"] = self.schedule.warmup_epochs
        if isinstance(self.schedule, Step):
            late["schedule.step_size"] = self.schedule.step_size
        if isinstance(self.schedule, MultiStep):
            late["schedule.milestones"] = self.schedule.milestones[-1]
        for key, epoch in late.items():
            if epoch >= self.epochs:
                raise ValueError(f"{key}: {epoch} is not before the end, epochs is {self.epochs}")
        return self

    @model_validator(mode="after")
    def _batches_are_whole(self) -> "Train":
        sampler = self.sampler
        if isinstance(sampler, Identities) and sampler.people * sampler.pictures != self.batch_size:
            raise ValueError(
                f"batch_size: must be people x pictures of the sampler, "
                f"{sampler.people} x {sampler.pictures}, got {self.batch_size}"
            )
        return self

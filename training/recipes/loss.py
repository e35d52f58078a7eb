"""The losses that training minimises."""

from typing import Annotated, Literal

from pydantic import Field

from training.recipes.fields import Fraction, Strict

Positive = Annotated[float, Field(gt=0.0)]
ClassWeights = Literal["balanced"] | Annotated[tuple[Positive, ...], Field(min_length=1)] | None


class CrossEntropy(Strict):
    """Softmax cross-entropy.

    label_smoothing: share of the target that is spread over all classes (arXiv 1512.00567, §7).
    class_weights: one a class, or "balanced" for N / (C · N_c), counted on the training split.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    class_weights: ClassWeights = None


class BinaryCrossEntropy(Strict):
    """Sigmoid cross-entropy of each class against the rest.

    positive_weight: weight of the class; the rest has 1.
    """

    name: Literal["bce"]
    positive_weight: Positive = 1.0


class Focal(Strict):
    """Softmax cross-entropy times (1 - p)^gamma, so that sure answers count little
    (arXiv 1708.02002).

    gamma: larger lets sure answers count less; 0 is cross-entropy.
    """

    name: Literal["focal"]
    gamma: Annotated[float, Field(ge=0.0)] = 2.0


class BinaryFocal(Strict):
    """Focal loss with a sigmoid for each class.

    gamma: larger lets sure answers count less.
    alpha: weight of the class; the rest has 1 - alpha.
    """

    name: Literal["binary_focal"]
    gamma: Annotated[float, Field(ge=0.0)] = 2.0
    alpha: Fraction = 0.25


class Dice(Strict):
    """1 - Dice coefficient of each class. It compares regions, so that small objects weigh as much
    as large ones (arXiv 1606.04797)."""

    name: Literal["dice"]


class Iou(Strict):
    """1 - intersection over union (Jaccard index) of each class."""

    name: Literal["iou"]


class Lovasz(Strict):
    """The convex surrogate of 1 - intersection over union (arXiv 1705.08790)."""

    name: Literal["lovasz"]


class L1(Strict):
    """Mean absolute difference of probabilities and targets."""

    name: Literal["l1"]


class Mse(Strict):
    """Mean squared difference of probabilities and targets (the Brier score)."""

    name: Literal["mse"]


class SmoothL1(Strict):
    """Squared below `beta`, absolute above it (arXiv 1504.08083, eq. 3).

    beta: the error from which on the loss is absolute.
    """

    name: Literal["smooth_l1"]
    beta: Positive = 1.0


class Kl(Strict):
    """Kullback-Leibler divergence of the answer from the target distribution."""

    name: Literal["kl"]


class Triplet(Strict):
    """An embedding shall be nearer to one of its own class than to one of another
    (arXiv 1503.03832). Batches must hold several images a class, as the sampler "identities" draws
    them.

    margin: least difference of the squared distances.
    mining: "hard" takes the farthest of the own class and the nearest of the others, "semi_hard"
        the nearest of the others that is farther than the own.
    """

    name: Literal["triplet"]
    margin: Positive = 0.2
    mining: Literal["hard", "semi_hard"] = "semi_hard"


class ArcFace(Strict):
    """Softmax over cosines to a learnt centre of each class (arXiv 1801.07698).

    margin: added to the angle to the own centre, radians.
    scale: factor of the cosines before the softmax.
    """

    name: Literal["arcface"]
    margin: Annotated[float, Field(ge=0.0, lt=1.5)] = 0.5
    scale: Positive = 64.0


class CosFace(Strict):
    """Softmax over cosines to a learnt centre of each class (arXiv 1801.09414).

    margin: taken from the cosine to the own centre.
    scale: factor of the cosines before the softmax.
    """

    name: Literal["cosface"]
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.35
    scale: Positive = 64.0


Term = (
    CrossEntropy
    | BinaryCrossEntropy
    | Focal
    | BinaryFocal
    | Dice
    | Iou
    | Lovasz
    | L1
    | Mse
    | SmoothL1
    | Kl
    | Triplet
    | ArcFace
    | CosFace
)


class Part(Strict):
    """One part of a sum.

    weight: of its loss in the sum.
    """

    weight: Positive = 1.0
    loss: Annotated[Term, Field(discriminator="name")]


class Sum(Strict):
    """Losses added up, each times its weight."""

    name: Literal["sum"]
    terms: Annotated[tuple[Part, ...], Field(min_length=1)]


Loss = Annotated[Term | Sum, Field(discriminator="name")]

_REGIONS = (Dice, Iou, Lovasz)
_EMBEDDINGS = (Triplet, ArcFace, CosFace)


def terms(loss: Loss) -> tuple[Term, ...]:
    """The parts of a sum; of another loss, itself."""
    return tuple(part.loss for part in loss.terms) if isinstance(loss, Sum) else (loss,)


def unfit(loss: Loss, task: str, *, single_logit: bool = False) -> str | None:
    """The reason why a loss, or a part of a sum, does not suit a task; None where it does.

    single_logit: the network answers with one logit, for a sigmoid, instead of one a class.
    """
    for term in terms(loss):
        if task == "embedding" and not isinstance(term, _EMBEDDINGS):
            return (
                f"{term.name} compares answers with classes; an embedding has distances only, "
                "which arcface, cosface and triplet are made of"
            )
        if task != "embedding" and isinstance(term, _EMBEDDINGS):
            return f"{term.name} compares embeddings; {task} has none"
        if task == "classification" and isinstance(term, _REGIONS):
            return f"{term.name} compares regions; classification has none"
        if single_logit and isinstance(term, CrossEntropy | Focal | Kl):
            return (
                f"{term.name} compares classes with each other, and with binary: true there is "
                "one; bce, binary_focal, dice and iou suit it"
            )
    return None

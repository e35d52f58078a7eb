"""Candidates for the network: names and sizes that suit the data. The best come first, as if there
were time for each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from training.pipeline.initial.answers import Answers
from training.pipeline.initial.found.facts import Look
from training.pipeline.initial.found.first_weights import FirstWeights

Size = tuple[int, int]

SHOWN = 0.875
"""Share of the shorter side that a crop from the centre shows."""

# Shorter sides that are tried, from those that show the most.
_SIDES = (224, 192, 160, 128, 96, 64, 48, 32)
# The shorter side up to which an image is small, as those of CIFAR and of digits.
_SMALL = 40
# Weights of ImageNet know shapes that no small image shows; it is enlarged to at least this side.
_ENLARGED = 96
# Networks that begin from chance, by the shorter side, the best first.
_SMALL_NETWORKS = (("resnet56_cifar", 32), ("resnet20_cifar", 32))
_LARGE_NETWORKS = (
    ("resnet18", 96),
    ("resnet20_cifar", 64),
    ("resnet20_cifar", 48),
    ("resnet20_cifar", 32),
)
# Sides of masks are multiples of it, so that no network pads them.
_STRIDE = 32
_MASK_SIDES = (320, 256, 224, 192, 160, 128, 96, 64, 32)
_FACE_SIDES = (64, 48, 32)
# Classes so called are not the same in a mirror: digits, letters, left and right.
_TURNED = re.compile(r"[A-Za-z0-9]|.*(left|right).*", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """One candidate.

    network: by name.
    size: (height, width) that it sees.
    resize: of the transform: as `size`, or the shorter side of which `size` is the centre.
    enough: epochs after which more gain little.
    batch_size: of its training.
    weights: those it begins with; None: from chance.
    width: of unet_slim; None for others.
    """

    network: str
    size: Size
    resize: Size | int
    enough: int
    batch_size: int
    weights: FirstWeights | None = None
    width: float | None = None


def drafts(answers: Answers, look: Look, train_images: int) -> list[Draft]:
    """The candidates for data of so many training images."""
    match answers.task:
        case "classification":
            found = _classifiers(answers, look, train_images)
        case "segmentation":
            found = _segmenters(answers, look, train_images)
        case "embedding":
            found = _embedders(answers, look, train_images)
    return found


def looks_mirrored(classes: Sequence[str]) -> bool:
    """Whether a mirrored image is likely one of the same class."""
    return not any(_TURNED.fullmatch(name) for name in classes)


def _epochs(images: int, shown: int, least: int, most: int = 100) -> int:
    """Epochs in which a network sees `shown` images."""
    return max(least, min(most, ceil(shown / max(1, images))))


def _batch(images: int, usual: int) -> int:
    """A power of two that leaves an epoch at least eight steps."""
    batch = usual
    while batch > 8 and images < 8 * batch:
        batch //= 2
    return batch


def _ladder(least: int, most: int, sides: Sequence[int] = _SIDES) -> list[int]:
    """The sides from `most` down to `least`, at least one."""
    return [side for side in sides if least <= side <= most] or [least]


def _classifiers(answers: Answers, look: Look, images: int) -> list[Draft]:
    shown = min(look.side, look.detail)
    found = [
        _classifier(weights.network, side, answers, look, images, weights)
        for weights in answers.weights
        if answers.network in (None, weights.network)
        for side in _ladder(_ENLARGED, max(look.side, _ENLARGED))
    ]
    networks: tuple[tuple[str, int], ...]
    if answers.network is None:
        networks = _SMALL_NETWORKS if look.side <= _SMALL else _LARGE_NETWORKS
        networks = tuple(pair for pair in networks if pair[1] <= shown) or networks[-1:]
    else:
        networks = () if found else ((answers.network, 32),)
    found += [
        _classifier(network, side, answers, look, images)
        for network, least in networks
        for side in _ladder(least, max(shown, least))
    ]
    return list(dict.fromkeys(found))


def _classifier(
    network: str,
    side: int,
    answers: Answers,
    look: Look,
    images: int,
    weights: FirstWeights | None = None,
) -> Draft:
    if answers.side is not None:
        size = answers.side
    elif look.one_size:
        size = _same_shape(look, side)
    else:
        size = side, side
    # The border of a photograph rarely shows what it is of.
    cut = not look.one_size and look.side > _SMALL
    resize = round(min(size) / SHOWN) if cut and size[0] == size[1] else size
    if weights is not None:
        return Draft(
            network, size, resize, _epochs(images, 12_000, 5, 30), _batch(images, 32), weights
        )
    # Of larger images the next larger size shows more than as many epochs again. Of 2,000 small
    # ones ResNet-20 learned more in 200 epochs (69.6 %) than ResNet-56 in 149 (67.5 %), each in 10
    # minutes.
    shown, most = (400_000, 200) if look.side <= _SMALL else (40_000, 100)
    enough = _epochs(images, shown, 15, most)
    return Draft(network, size, resize, enough, _batch(images, 64))


def _same_shape(look: Look, side: int, stride: int = 1) -> Size:
    """The size whose shorter side is `side` and whose shape is that of the images, up to twice as
    long."""
    longer = side * min(2.0, max(look.height, look.width) / look.side)
    rounded = max(side, round(longer / stride) * stride)
    return (rounded, side) if look.height > look.width else (side, rounded)


def _segmenters(answers: Answers, look: Look, images: int) -> list[Draft]:
    shown = min(look.side, look.detail)
    sides = _ladder(32, max(32, shown), _MASK_SIDES)
    enough, batch = _epochs(images, 16_000, 20), _batch(images, 16)

    def size(side: int) -> Size:
        return answers.side or _same_shape(look, side, _STRIDE)

    found = [
        Draft(weights.network, size(side), size(side), _epochs(images, 6_000, 10), batch, weights)
        for weights in answers.weights
        if answers.network in (None, weights.network)
        for side in sides
    ]
    if answers.network in (None, "unet_slim"):
        found += [
            Draft("unet_slim", size(side), size(side), enough, batch, width=width)
            for side in sides
            for width in (0.25, 0.125)
        ]
    elif not found:
        found = [Draft(answers.network, size(side), size(side), enough, batch) for side in sides]
    return list(dict.fromkeys(found))


def _embedders(answers: Answers, look: Look, images: int) -> list[Draft]:
    enough, batch = _epochs(images, 20_000, 30), _batch(images, 32)
    found = []
    for side in _ladder(32, max(32, look.side), _FACE_SIDES):
        size = answers.side or _same_shape(look, side, 2)
        found.append(Draft(answers.network or "resnet20_cifar", size, size, enough, batch))
    return list(dict.fromkeys(found))

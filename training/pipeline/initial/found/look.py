"""A look at some images of a folder: their sizes, colours and detail."""

import time
from pathlib import Path

import cv2
import numpy as np

from serving.images.decoding import Pixels
from training.data.readers import Loaded
from training.data.samples import Samples
from training.errors import DataError
from training.pipeline.initial.found.facts import Look

SEEN = 256
"""The side, in pixels, at which images are looked at: more than the networks here see."""

# Images that are looked at, at most, the number that is read together, and seconds after which no
# more are read.
_IMAGES, _TOGETHER, _SECONDS = 96, 16, 5.0
# Sides that are tried for the detail of an image.
_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
# Mean difference, of 255 levels, between an image and its copy that was made smaller and large
# again, up to which the smaller one shows the same. Larger takes blurred images for smaller.
_SAME = 1.5
# Levels by which the colours of a grey pixel may differ: JPEG rounds each of them.
_GREY_LEVELS = 3
# Of pixels of one colour, which have no spread to divide by.
_LEAST_STD = 0.05


def look(samples: Samples, root: Path) -> Look:
    """Opens some of the images, drawn at random with a fixed seed. Raises DataError where none of
    them can be used, with the reason of the first."""
    drawn = np.random.default_rng(0).permutation(len(samples))[:_IMAGES].tolist()
    loaded, broken = list[Loaded](), dict[str, str]()
    started = time.monotonic()
    for first in range(0, len(drawn), _TOGETHER):
        indices = drawn[first : first + _TOGETHER]
        for index, one in zip(indices, samples.read(indices), strict=True):
            if isinstance(one, str):
                broken[samples.names[index]] = one
            else:
                loaded.append(one)
        if time.monotonic() - started > _SECONDS:
            break
    seconds = (time.monotonic() - started) / max(1, len(loaded))
    if not loaded:
        name, reason = next(iter(broken.items()), ("no image", "there is none"))
        raise DataError(f"{root}: none of {len(broken)} images can be used; {name}: {reason}")
    height, width = (int(side) for side in np.median([one.size for one in loaded], axis=0))
    levels = np.stack([one.image for one in loaded]).reshape(-1, 3) / np.float32(255)
    details = [_detail(one.image) for one in loaded]
    return Look(
        loaded=tuple(loaded),
        height=height,
        width=width,
        one_size=len({one.size for one in loaded}) == 1,
        grey=all(_is_grey(one.image) for one in loaded),
        detail=min(int(np.median(details)), height, width),
        mean=tuple(round(float(value), 3) for value in levels.mean(axis=0)),
        std=tuple(round(max(float(value), _LEAST_STD), 3) for value in levels.std(axis=0)),
        seconds=seconds,
        broken=broken,
    )


def _is_grey(pixels: Pixels) -> bool:
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    return bool(np.percentile(spread, 99) <= _GREY_LEVELS)


def _detail(pixels: Pixels) -> int:
    """The shortest side at which an image of SEEN x SEEN shows what it shows there."""
    for side in _SIDES:
        smaller = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        again = cv2.resize(smaller, (SEEN, SEEN), interpolation=cv2.INTER_LINEAR)
        if float(np.abs(again.astype(np.int16) - pixels).mean()) <= _SAME:
            return side
    return SEEN

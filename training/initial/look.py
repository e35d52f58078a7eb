"""A look at some images of a folder: their sizes, colours and detail."""

import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput
from serving.base.files import read_file
from serving.images.decoding import LoadedImage, Pixels, decode, sent_size
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.errors import DataError
from training.initial.facts import Look

# Images that are looked at, at most, and seconds after which no more are opened.
_IMAGES = 64
_SECONDS = 5.0
# Bytes of a file, at most: no image that a server takes is longer.
_MAX_BYTES = 64 << 20
# The shorter side at which images are looked at: more than the networks here see.
_SEEN = 256
# Sides that are tried for the detail of an image.
_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
# Mean difference, of 255 levels, between an image and its copy that was made smaller and large
# again, up to which the smaller one shows the same. Larger takes blurred images for smaller.
_SAME = 1.5
# Levels by which the colours of a grey pixel may differ: JPEG rounds each of them.
_GREY_LEVELS = 3


def look(sample: Sequence[Path], root: Path) -> Look:
    """Opens some of `sample`, evenly over its length. Raises DataError where none can be decoded,
    with the reason of the first."""
    step = max(1, len(sample) // _IMAGES)
    sizes, grey, details = list[tuple[int, int]](), list[bool](), list[int]()
    colours = list[NDArray[np.float64]]()
    broken: dict[str, str] = {}
    started = time.monotonic()
    spent = 0.0
    for file in sample[::step]:
        before = time.monotonic()
        if before - started > _SECONDS:
            break
        try:
            loaded = _opened(file)
        except (InvalidInput, OSError) as error:
            broken[_below(file, root)] = str(error)
            continue
        spent += time.monotonic() - before
        sizes.append(loaded.size)
        grey.append(_is_grey(loaded.pixels))
        details.append(_detail(loaded.pixels))
        levels = loaded.pixels.reshape(-1, 3) / 255
        colours.append(np.stack([levels.mean(axis=0), (levels**2).mean(axis=0)]))
    if not sizes:
        name, reason = next(iter(broken.items()), ("no image", "there is none"))
        raise DataError(f"{root}: none of {len(broken)} images can be decoded; {name}: {reason}")
    height, width = (int(side) for side in np.median(np.array(sizes), axis=0))
    mean, squares = np.mean(colours, axis=0)
    # A set of one colour has no spread.
    std = np.sqrt(np.maximum(squares - mean**2, 0.05**2))
    return Look(
        count=len(sizes),
        height=height,
        width=width,
        one_size=len(set(sizes)) == 1,
        grey=all(grey),
        detail=int(np.median(details)),
        mean=tuple(round(float(value), 3) for value in mean),
        std=tuple(round(float(value), 3) for value in std),
        seconds=spent / len(sizes),
        broken=broken,
    )


def _opened(file: Path) -> LoadedImage:
    """An image whose shorter side has at most _SEEN pixels."""
    data = read_file(file, _MAX_BYTES)
    size = sent_size(data)
    if min(size) <= _SEEN:
        return LoadedImage(decode(data), size)
    return load_image(data, EvalTransform(resize=_SEEN))


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _is_grey(pixels: Pixels) -> bool:
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    return bool(np.percentile(spread, 99) <= _GREY_LEVELS)


def _detail(pixels: Pixels) -> int:
    """The shortest side at which an image shows what it shows at its own size."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    for side in _SIDES:
        if side >= short:
            break
        size = max(1, width * side // short), max(1, height * side // short)
        smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        again = cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR)
        if float(np.abs(again.astype(np.int16) - pixels).mean()) <= _SAME:
            return side
    return short

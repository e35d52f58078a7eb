"""Duplicates in a data set: images with equal pixels, and images that look alike."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.readers import Pixels

# Bits of 64 in which the hashes of near duplicates may differ. Recompressed or slightly brightened
# copies stay below; more would take different images for copies.
NEAR_BITS = 6
# Mean difference of 255 grey levels that the thumbnails of near duplicates may have. It tells plain
# images apart, whose hashes are equal whatever their brightness.
NEAR_LEVELS = 6
# Hashes that are compared with all others at a time; more need more memory.
_ROWS = 64

Pair = tuple[int, int]


def thumbnail(image: Pixels) -> Pixels:
    """uint8 [8, 9], grey, of an image uint8 [H, W, C]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]
    return np.asarray(cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def dhash(thumbnails: Pixels) -> NDArray[np.uint64]:
    """Difference hash, uint64 [N] of thumbnails uint8 [N, 8, 9]: a bit for each pair of horizontal
    neighbours, set where the right one is brighter."""
    rises = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    packed: NDArray[np.uint8] = np.packbits(rises.reshape(len(rises), -1), axis=1)
    return packed.view(np.uint64).reshape(-1)


def same_pixels(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two and more indices with equal digests, in the order of their first members."""
    groups = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [members for members in groups.values() if len(members) > 1]


def near_pairs(first: Pixels, second: Pixels) -> Iterator[Pair]:
    """Pairs of images that look alike, as indices into two lists of thumbnails, uint8 [N, 8, 9] and
    [M, 8, 9]: at most NEAR_BITS of their hashes' bits and NEAR_LEVELS grey levels differ."""
    hashes, others = dhash(first), dhash(second)
    for start in range(0, len(hashes), _ROWS):
        distance = np.bitwise_count(hashes[start : start + _ROWS, None] ^ others[None])
        rows, columns = np.nonzero(distance <= NEAR_BITS)
        difference = first[start + rows].astype(np.int16) - second[columns].astype(np.int16)
        alike = np.abs(difference).mean(axis=(1, 2)) <= NEAR_LEVELS
        yield from zip((start + rows[alike]).tolist(), columns[alike].tolist(), strict=True)

"""Images that are in a data set twice: the same pixels, or nearly."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.samples import Pixels

# Of the 64 bits of a hash: recompressed or slightly brightened copies differ in fewer.
NEAR_BITS = 6
# And of 255 grey levels, on average over the thumbnail: an empty image hashes like any other.
NEAR_LEVELS = 6
_ROWS = 64

Pair = tuple[int, int]


def thumbnail(image: Pixels) -> Pixels:
    """uint8 [8, 9], grey, of an RGB image uint8 [H, W, 3]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def dhash(thumbnails: Pixels) -> NDArray[np.uint64]:
    """Difference hash: one bit for each pair of horizontal neighbours, set where it gets brighter
    to the right; uint64 [N] from uint8 [N, 8, 9]."""
    rises = thumbnails[:, :, 1:] > thumbnails[:, :, :-1]
    packed: NDArray[np.uint8] = np.packbits(rises.reshape(len(rises), -1), axis=1)
    return packed.view(np.uint64).reshape(-1)


def same_pixels(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two and more indices with equal digests, in order of their first."""
    groups = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [members for members in groups.values() if len(members) > 1]


def near_pairs(first: Pixels, second: Pixels) -> Iterator[Pair]:
    """Indices into two lists of thumbnails uint8 [N, 8, 9] and [M, 8, 9] of images that look
    alike: at most NEAR_BITS bits of their hashes differ, and at most NEAR_LEVELS grey levels."""
    hashes, others = dhash(first), dhash(second)
    for start in range(0, len(hashes), _ROWS):
        distance = np.bitwise_count(hashes[start : start + _ROWS, None] ^ others[None])
        rows, columns = np.nonzero(distance <= NEAR_BITS)
        difference = first[start + rows].astype(np.int16) - second[columns].astype(np.int16)
        alike = np.abs(difference).mean(axis=(1, 2)) <= NEAR_LEVELS
        yield from zip((start + rows[alike]).tolist(), columns[alike].tolist(), strict=True)

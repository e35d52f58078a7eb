"""Handwritten digits that need no download: the 1,797 8×8 scans that come with scikit-learn.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, UCI 1998).
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
IMAGE_SIZE = 32

TEST_FRACTION = 0.2
VAL_FRACTION = 0.1

Split = Literal["train", "val", "test"]


def load_digits_split(
    split: Split, *, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [N, 32, 32, 3], RGB with white strokes on black, and labels int64 [N].

    The three splits are disjoint, hold all 1,797 images, and are stratified: a fifth (rounded up)
    of every class is test, a tenth (rounded up) val, the rest train. The cut depends on `seed`
    alone. Raises ValueError for another split name.
    """
    # Imported here: the import takes a second, which builds of other data do not have to spend.
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels: NDArray[np.int64] = digits.target.astype(np.int64)
    chosen = _split_indices(labels, split, seed)
    return np.stack([_enlarge(scan) for scan in digits.images[chosen]]), labels[chosen]


def _split_indices(labels: NDArray[np.int64], split: Split, seed: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.intp]]] = {"train": [], "val": [], "test": []}
    for label in range(len(CLASSES)):
        members = rng.permutation(np.flatnonzero(labels == label))
        test_end = int(np.ceil(len(members) * TEST_FRACTION))
        val_end = test_end + int(np.ceil(len(members) * VAL_FRACTION))
        test, val, train = np.split(members, [test_end, val_end])
        parts["test"].append(test)
        parts["val"].append(val)
        parts["train"].append(train)
    if split not in parts:
        raise ValueError(f"split must be train, val or test, got {split!r}")
    return np.sort(np.concatenate(parts[split]))


def _enlarge(scan: NDArray[np.float64]) -> NDArray[np.uint8]:
    """float64 [8, 8] in 0..16 to uint8 [32, 32, 3]; cubic, because linear blurs the strokes."""
    grey = cv2.resize(scan * (255 / 16), (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)

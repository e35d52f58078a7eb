"""The contact sheet of the report: a few training images of each class, or with their masks."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from training.data.readers import Pixels
from training.data.samples import Dataset
from training.data.sampling import spread_rows

_SHEET_ROWS = 20
_SHEET_COLUMNS = 8
_SHEET_SIDE = 96


def write_sheet(path: Path, data: Dataset, rows: Sequence[int], labels: Sequence[int]) -> None:
    """Writes some of the training images of numbers `rows`, with the classes `labels`, empty for
    masks. Arrays: for classes `images` [R, C, h, w, 3 or 1], `classes` (names of the rows) and
    `counts` (images in each row); for masks `images` [N, H, W, C] and `masks` [N, H, W]."""
    numbers = np.array(rows)
    if not labels:
        images, masks = data.train.batch(numbers[spread_rows(len(rows), _SHEET_COLUMNS)])
        np.savez(path, allow_pickle=False, images=images, masks=masks)
        return
    classes = np.array(labels)
    present = np.unique(classes)
    shown = present[np.linspace(0, len(present) - 1, min(_SHEET_ROWS, len(present))).astype(int)]
    pictures, counts = [], []
    for label in shown:
        members = numbers[classes == label]
        count = min(_SHEET_COLUMNS, len(members))
        images, _ = data.train.batch(members[spread_rows(len(members), count)])
        shrunk = [_shrunk(image) for image in images]
        shrunk += [np.zeros_like(shrunk[0])] * (_SHEET_COLUMNS - count)
        pictures.append(np.stack(shrunk))
        counts.append(count)
    np.savez(
        path,
        allow_pickle=False,
        images=np.stack(pictures),
        classes=np.array([data.classes[label] for label in shown]),
        counts=np.array(counts),
    )


def _shrunk(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    factor = min(1.0, _SHEET_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # OpenCV drops the dimension of a single channel.
    return np.asarray(shrunk, dtype=np.uint8).reshape(*size[::-1], image.shape[2])

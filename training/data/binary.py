"""Class masks as binary masks: all classes but the first are one foreground."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.data.changed_targets import with_targets
from training.data.readers import Targets
from training.data.samples import Dataset

# The value of ignored pixels, whatever value the source has for them.
IGNORED = 255


def as_binary(data: Dataset) -> Dataset:
    """The data set with two classes: the first, and all others as one, which is called
    "foreground" unless it is a single class. Masks hold 0, 1 and, for ignored pixels, 255."""

    def change(masks: Targets) -> Targets:
        return foreground(masks, data.ignore_index)

    return replace(
        data,
        classes=binary_classes(data.classes),
        train=with_targets(data.train, change),
        val=with_targets(data.val, change),
        test=with_targets(data.test, change),
        ignore_index=None if data.ignore_index is None else IGNORED,
    )


def binary_classes(classes: Sequence[str]) -> tuple[str, str]:
    """The two classes that are made of several."""
    background, *others = classes
    return background, others[0] if len(others) == 1 else "foreground"


def foreground(masks: Targets, ignore_index: int | None) -> Targets:
    """Masks of 0, 1 and, for ignored pixels, IGNORED."""
    found: Targets = (masks != 0).astype(np.uint8)
    if ignore_index is not None:
        found[masks == ignore_index] = IGNORED
    return found

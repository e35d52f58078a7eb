"""Class masks as binary masks: all classes but the first are one foreground."""

from dataclasses import replace

import numpy as np

from training.data.changed_targets import with_targets
from training.data.samples import Dataset, Targets

# The value of ignored pixels, whatever value the source has for them.
IGNORED = 255


def as_binary(data: Dataset) -> Dataset:
    """The data set with two classes: the first, and all others as one, which is called
    "foreground" unless it is a single class. Masks hold 0, 1 and, for ignored pixels, 255."""
    background, *others = data.classes

    def foreground(masks: Targets) -> Targets:
        found: Targets = (masks != 0).astype(np.uint8)
        if data.ignore_index is not None:
            found[masks == data.ignore_index] = IGNORED
        return found

    return replace(
        data,
        classes=(background, others[0] if len(others) == 1 else "foreground"),
        train=with_targets(data.train, foreground),
        val=with_targets(data.val, foreground),
        test=with_targets(data.test, foreground),
        ignore_index=None if data.ignore_index is None else IGNORED,
    )

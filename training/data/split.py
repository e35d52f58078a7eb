"""Who is held out: random, seeded cuts of a list of images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def cut(labels: Sequence[int], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """(kept, cut out) indices, ascending; of each label, `fraction` is cut, rounded up.

    At least one image of each label stays where it has more than one; equal labels throughout cut
    the whole list at random.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(labels)
    kept, out = [], []
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        count = min(int(np.ceil(len(members) * fraction)), len(members) - 1)
        out.append(members[:count])
        kept.append(members[count:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(out))

"""The classes of a network that was trained elsewhere, of which the data may show a part."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8, lines_of
from training.data.samples import Dataset, Loaded, Pair, Samples, Targets
from training.errors import DataError

# The value of ignored pixels, whatever value the source has for them.
_IGNORED = 255
_NAMED = 5


def read_class_names(file: Path) -> tuple[str, ...]:
    """The classes of a network's answer in their order, one a line, without the white space around
    them. Raises DataError naming the file and the line."""
    try:
        lines = lines_of(decode_utf8(file, read_file(file)).rstrip())
    except NotText as error:
        raise DataError(f"model.classes: {error}") from error
    except OSError as error:
        raise DataError(
            f"model.classes: {file}: {error.strerror or error}; expected one class a line"
        ) from error
    names = tuple(line.strip() for line in lines)
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"model.classes: {file}: line {number}: empty; expected a class")
    return names


class _RenumberedSamples:
    """Samples whose targets are looked up in a table."""

    def __init__(self, samples: Samples, table: NDArray[np.int64]) -> None:
        self.names = samples.names
        self._samples = samples
        self._table = table

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        images, targets = self._samples.batch(indices)
        return images, self._renumbered(targets)

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        return [
            one if isinstance(one, str) else one._replace(target=self._renumbered(one.target))
            for one in self._samples.read(indices)
        ]

    def _renumbered(self, targets: Targets) -> Targets:
        found: Targets = self._table[targets].astype(targets.dtype)
        return found


def as_classes_of(data: Dataset, names: Sequence[str], file: Path) -> Dataset:
    """The data set with the classes `names` of a network, read from `file`: its own classes are
    found among them by name, and its targets are their numbers there.

    Raises DataError where a class of the data is none of them, or is two of them.
    """
    counts = Counter(names)
    wrong = [name for name in data.classes if counts[name] != 1]
    if wrong:
        raise DataError(_misnamed(data, names, file, wrong))
    masks = bool(data.train.batch([0])[1].ndim > 1)
    ignored = _IGNORED if data.ignore_index is not None else None
    if masks and len(names) > 256 - (ignored is not None):
        raise DataError(
            f"model.classes: {file} names {len(names)} classes; a mask holds at most 255 and the "
            "value of ignored pixels"
        )
    numbers = {name: number for number, name in enumerate(names)}
    table = np.full(max(256, len(data.classes)), _IGNORED, np.int64)
    table[: len(data.classes)] = [numbers[name] for name in data.classes]
    if data.ignore_index is not None:
        table[data.ignore_index] = _IGNORED
    return replace(
        data,
        classes=tuple(names),
        train=_RenumberedSamples(data.train, table),
        val=_RenumberedSamples(data.val, table),
        test=_RenumberedSamples(data.test, table),
        ignore_index=ignored,
    )


def _misnamed(data: Dataset, names: Sequence[str], file: Path, wrong: Sequence[str]) -> str:
    counts = Counter(names)
    told = []
    for name in wrong[:_NAMED]:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near and not counts[name] else ""
        told.append(f"{name!r}{hint}" if not counts[name] else f"{name!r} ({counts[name]} times)")
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return (
        f"model.classes: {file} must name each class of the data once, one of {len(names)} a line; "
        f"{len(wrong)} of {len(data.classes)} it does not: {', '.join(told)}{more}"
    )

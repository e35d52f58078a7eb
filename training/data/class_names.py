"""The classes of a network that was trained elsewhere, of which the data may show a part."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8, lines_of
from training.data.binary import IGNORED
from training.data.changed_targets import with_targets
from training.data.readers import Targets
from training.data.samples import Dataset, Samples
from training.data.sampling import known_counts
from training.errors import DataError

_NAMED = 5


def read_class_names(file: Path, key: str = "model.classes") -> tuple[str, ...]:
    """The classes of a network's answer in their order, one a line, without the white space around
    them. Raises DataError naming `key`, the file and the line."""
    try:
        lines = lines_of(decode_utf8(file, read_file(file)).rstrip())
    except NotText as error:
        raise DataError(f"{key}: {error}") from error
    except OSError as error:
        raise DataError(
            f"{key}: {file}: {error.strerror or error}; expected one class a line"
        ) from error
    names = tuple(line.strip() for line in lines)
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{key}: {file}: line {number}: empty; expected a class")
    return names


def as_classes_of(data: Dataset, names: Sequence[str], named: str) -> Dataset:
    """The data set with the classes `names` of a network, which `named` says: its own classes are
    found among them by name, and its targets are their numbers there.

    Raises DataError where a class of the data is none of them, or is two of them.
    """
    counts = Counter(names)
    wrong = [name for name in data.classes if counts[name] != 1]
    if wrong:
        raise DataError(_misnamed(data, names, named, wrong))
    masks = bool(data.train.batch([0])[1].ndim > 1)
    ignored = IGNORED if data.ignore_index is not None else None
    if masks and len(names) > 256 - (ignored is not None):
        raise DataError(
            f"{named} names {len(names)} classes; a mask holds at most 255 and the "
            "value of ignored pixels"
        )
    numbers = {name: number for number, name in enumerate(names)}
    table = np.full(max(256, len(data.classes)), IGNORED, np.int64)
    table[: len(data.classes)] = [numbers[name] for name in data.classes]
    if data.ignore_index is not None:
        table[data.ignore_index] = IGNORED

    def renumbered(targets: Targets) -> Targets:
        found: Targets = table[targets].astype(targets.dtype)
        return found

    def split(samples: Samples) -> Samples:
        known = known_counts(samples)
        if known is None:
            return with_targets(samples, renumbered)
        counts = np.zeros(len(names), np.int64)
        counts[table[: len(known)]] = known
        return with_targets(samples, renumbered, counts)

    return replace(
        data,
        classes=tuple(names),
        train=split(data.train),
        val=split(data.val),
        test=split(data.test),
        ignore_index=ignored,
    )


def _misnamed(data: Dataset, names: Sequence[str], named: str, wrong: Sequence[str]) -> str:
    counts = Counter(names)
    told = []
    for name in wrong[:_NAMED]:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near and not counts[name] else ""
        told.append(f"{name!r}{hint}" if not counts[name] else f"{name!r} ({counts[name]} times)")
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return (
        f"{named} must name each class of the data once, one of {len(names)} a line; "
        f"{len(wrong)} of {len(data.classes)} it does not: {', '.join(told)}{more}"
    )

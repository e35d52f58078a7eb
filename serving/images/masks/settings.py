"""What people say about their masks, and the rule that follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput, quoted
from serving.images.masks.files import WHITE, are_black_and_white
from serving.images.masks.folders import CLASSES_FILE, read_classes
from serving.images.masks.rules import IGNORED, UNNAMED, ClassMap, MaskRule
from serving.images.masks.tables import USUAL_FILES, Table, read_table

DEFAULT_IGNORE_INDEX = 255
BACKGROUND, FOREGROUND = "background", "foreground"
_VALUES = 1 << 16
_SOFT_EDGES = "; masks with soft edges need a threshold, such as 128"


@dataclass(frozen=True)
class MaskSettings:
    """What is said about masks; a recipe's MaskRules explains each field."""

    classes: Sequence[str] | None = None
    colours: str | None = None
    values: Mapping[int | str, str | None] | None = None
    ignore: Sequence[str] = ()
    ignore_index: int | None = None
    threshold: int | None = None
    tolerance: int = 0
    palette: Literal["indices", "colours"] | None = None


def mask_rule(
    said: MaskSettings,
    folders: Sequence[Path],
    masks: Sequence[Path],
    named: Sequence[str] | None = None,
) -> MaskRule:
    """The rule for `masks`, from what is said and, where that leaves it open, from the first of
    `folders` that has a table of USUAL_FILES or a list of classes.

    named: the classes where no folder has a list.
    Raises InvalidInput naming what is wrong, and where no classes are named.
    """
    if said.values is not None:
        return _by_values(said, said.values)
    if said.colours is not None:
        return _by_table(said, read_table(said.colours, folders[0]))
    names = said.classes
    if names is None and said.threshold is None:
        for folder in folders:
            if (folder / CLASSES_FILE).exists():
                break
            for name in USUAL_FILES:
                if (folder / name).is_file():
                    return _by_table(said, read_table(str(folder / name), folder))
    source = "classes"
    if names is None:
        files = [folder / CLASSES_FILE for folder in folders]
        file = next((file for file in files if file.exists()), None)
        if file is not None:
            source, names = str(file), read_classes(file)
        elif named is not None:
            names = named
    if said.threshold is not None:
        return _by_threshold(said.threshold, names or (BACKGROUND, FOREGROUND), source)
    white = (
        said.ignore_index is None and (names is None or len(names) == 2)
        and are_black_and_white(masks)
    )  # fmt: skip
    if white:
        return _black_and_white(names or (BACKGROUND, FOREGROUND), source)
    if names is None:
        raise InvalidInput(
            f"{folders[0] / CLASSES_FILE}: no such file; expected one class a line, or the key "
            f"classes, values or colours; masks of 0 and 255 alone need none of them{_SOFT_EDGES}"
        )
    return _by_index(said, names, source)


def _by_index(said: MaskSettings, names: Sequence[str], source: str) -> MaskRule:
    ignored = DEFAULT_IGNORE_INDEX if said.ignore_index is None else said.ignore_index
    classes = tuple(names)
    if said.ignore_index is None and len(classes) > ignored + 1:
        ignored = _VALUES - 1
    elif len(classes) == ignored + 1:
        classes = classes[:-1]
    elif ignored < len(classes):
        raise InvalidInput(
            f"{source}: ignore_index {ignored} is also the class {classes[ignored]!r}; expected an "
            "index past the classes, or that of the last line, which then names what is ignored"
        )
    values = np.full(_VALUES, UNNAMED, np.int16)
    values[: len(classes)] = np.arange(len(classes))
    values[ignored] = IGNORED
    expected = f"classes 0 to {len(classes) - 1} or {ignored} (ignored)"
    rule = _without(said, classes, values, expected=expected, source=source, ignore_index=ignored)
    return replace(rule, hint=_SOFT_EDGES) if len(classes) == 2 else rule


def _black_and_white(names: Sequence[str], source: str) -> MaskRule:
    values = np.full(_VALUES, UNNAMED, np.int16)
    values[[0, WHITE]] = 0, 1
    return MaskRule(
        tuple(names),
        values,
        expected=f"0 and {WHITE}, as in the other masks",
        note=f"masks hold 0 and {WHITE} alone: {WHITE} is {names[1]!r}",
        source=source,
        ignore_index=None,
    )


def _by_threshold(threshold: int, names: Sequence[str], source: str) -> MaskRule:
    if len(names) != 2:
        raise InvalidInput(f"threshold: it tells two classes apart; {source} names {len(names)}")
    values = (np.arange(_VALUES) >= threshold).astype(np.int16)
    note = f"values of masks from {threshold} on are {names[1]!r}, lower ones {names[0]!r}"
    return MaskRule(tuple(names), values, note=note, ignore_index=None)


def _by_values(said: MaskSettings, named: Mapping[int | str, str | None]) -> MaskRule:
    values = np.full(_VALUES, UNNAMED, np.int16)
    names = [name for name in dict.fromkeys(named.values()) if name is not None]
    for key, name in named.items():
        first, last = _range(key)
        if (values[first : last + 1] != UNNAMED).any():
            raise InvalidInput(f"values: {key} is named twice")
        values[first : last + 1] = IGNORED if name is None else names.index(name)
    if said.ignore_index is not None:
        values[said.ignore_index] = IGNORED
    return _without(said, names, values, expected="those that values names", source="values")


def _range(key: int | str) -> tuple[int, int]:
    begin, dots, end = str(key).partition("..")
    ends = (begin, end if dots else begin)
    if not all(text.isascii() and text.isdecimal() and len(text) < 6 for text in ends):
        raise InvalidInput(f"values: expected a number or FIRST..LAST, got {quoted(key)}")
    first, last = int(ends[0]), int(ends[1])
    if not first <= last < _VALUES:
        raise InvalidInput(f"values: expected numbers from 0 to {_VALUES - 1}, got {quoted(key)}")
    return first, last


def _by_table(said: MaskSettings, table: Table) -> MaskRule:
    names = list(dict.fromkeys(row.name for row in table.rows if not row.ignored))
    if said.classes is not None:
        if strange := [name for name in said.classes if name not in names]:
            raise InvalidInput(f"classes: {quoted(strange[0])} is no class of {table.source}")
        names = list(said.classes)
    places = {name: place for place, name in enumerate(names)}
    values = np.full(_VALUES, UNNAMED, np.int16)
    colours: dict[int, int] = {}
    for row in table.rows:
        place = IGNORED if row.ignored else places.get(row.name, IGNORED)
        if row.colour is not None:
            red, green, blue = row.colour
            colours.setdefault(red << 16 | green << 8 | blue, place)
            if red == green == blue and not table.states_values:
                values[red] = place
        if row.value is not None:
            values[row.value] = place
    if said.ignore_index is not None:
        values[said.ignore_index] = IGNORED
    keys = sorted(colours)
    by_colour = said.palette == "colours" or (said.palette is None and not table.states_values)
    return _without(
        said,
        names,
        values,
        keys=np.array(keys, np.uint32),
        key_classes=np.array([colours[key] for key in keys], np.int16),
        palette_colours=by_colour and bool(keys),
        expected=f"those of {table.source}",
        source=table.source,
    )


def _without(
    said: MaskSettings,
    names: Sequence[str],
    values: ClassMap,
    *,
    expected: str,
    source: str,
    keys: NDArray[np.uint32] | None = None,
    key_classes: ClassMap | None = None,
    palette_colours: bool = False,
    ignore_index: int = DEFAULT_IGNORE_INDEX,
) -> MaskRule:
    """The rule without the classes that are said to be ignored, within the tolerance."""
    if strange := [name for name in said.ignore if name not in names]:
        raise InvalidInput(f"ignore: {quoted(strange[0])} is no class of {source}")
    kept = [name for name in names if name not in said.ignore]
    # The last two places are those of UNNAMED and IGNORED, which count from the end.
    renumbered = np.array(
        [kept.index(name) if name in kept else IGNORED for name in names] + [UNNAMED, IGNORED],
        np.int16,
    )
    values = renumbered[values]
    if said.tolerance:
        values = _widened(values, said.tolerance)
    return MaskRule(
        tuple(kept),
        values,
        keys if keys is not None else np.zeros(0, np.uint32),
        renumbered[key_classes] if key_classes is not None else np.zeros(0, np.int16),
        palette_colours,
        said.tolerance,
        expected,
        source=source,
        ignore_index=ignore_index,
    )


def _widened(values: ClassMap, tolerance: int) -> ClassMap:
    """Values without a name take that of the nearest within the tolerance."""
    named = np.flatnonzero(values != UNNAMED)
    if not len(named):
        return values
    every = np.arange(len(values))
    after = np.clip(np.searchsorted(named, every), 0, len(named) - 1)
    before = np.maximum(after - 1, 0)
    below, above = named[before], named[after]
    nearest = np.where(np.abs(every - below) <= np.abs(above - every), below, above)
    near = np.abs(every - nearest) <= tolerance
    return np.where(near, values[nearest], np.int16(UNNAMED))

"""Masks whose values nobody named: names made up from what they hold."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving.base.errors import InvalidInput
from serving.images.masks.files import read_mask
from serving.images.masks.folders import MaskNames, list_masked_images
from serving.images.masks.tables import SHIPPED, Table, read_table
from training.data.sources.split_folders import split_folders
from training.errors import DataError

# Masks that are read.
_READ = 100
# Values of a set; more are no classes but soft edges, or photographs.
_MOST_VALUES = 64
# Colours that a message names.
_SHOWN = 10
# Values between black and white, from so many on, that are soft edges and no classes.
_EDGES = 8
# Share of the pixels near black or white from which on other values are soft edges.
_EXTREME, _NEAR, _HALF = 0.95, 16, 128
_IGNORED = 255


class Named(NamedTuple):
    """Keys of a recipe's data section that name what masks hold, and notes on them."""

    data: dict[str, Any]
    notes: tuple[str, ...]


def named_masks(root: Path) -> Named | None:
    """Names for the masks of a folder, from some of them; None where they cannot be told. Raises
    DataError and InvalidInput as the listing of the folder does."""
    folders = split_folders(root, lambda folder: True)
    pairs = list_masked_images(folders["train"], MaskNames()).pairs
    values, colours = Counter[int](), Counter[tuple[int, ...]]()
    for pair in pairs[:: max(1, len(pairs) // _READ)][:_READ]:
        try:
            pixels = read_mask(pair.mask)
        except InvalidInput:
            continue
        if pixels.values is not None:
            found, counts = np.unique(pixels.values, return_counts=True)
            values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        elif pixels.colours is not None:
            packed, counts = np.unique(pixels.colours.reshape(-1, 3), axis=0, return_counts=True)
            colours.update(
                {tuple(c): int(n) for c, n in zip(packed.tolist(), counts.tolist(), strict=True)}
            )
    if colours:
        return _by_colours(root, colours)
    return _by_values(values)


def _by_values(values: Counter[int]) -> Named | None:
    total = sum(values.values())
    extreme = sum(
        count for value, count in values.items() if value < _NEAR or _IGNORED - _NEAR < value < 256
    )
    between = sum(_NEAR <= value <= _IGNORED - _NEAR for value in values)
    if between > _EDGES and extreme >= _EXTREME * total:
        return Named(
            {"threshold": _HALF}, (f"masks have soft edges: {_HALF} and more is foreground",)
        )
    if not 2 <= len(values) <= _MOST_VALUES:
        return None
    named = {
        value: None
        if value == _IGNORED and len(values) > 2
        else "background"
        if value == 0
        else f"class_{value}"
        for value in sorted(values)
    }
    made_up = ", ".join(str(value) for value in named)
    return Named(
        {"values": named},
        (
            f"nothing names the values of the masks ({made_up}): class_1 and the like are made up, "
            "write your names into the recipe",
        ),
    )


def _share_seen(table: Table, colours: Counter[tuple[int, ...]]) -> float:
    """The share of a table's classes whose colours are seen: CamVid's 11 classes have the colours
    of its 32. 0 where the table leaves a colour out."""
    if not colours.keys() <= {row.colour for row in table.rows}:
        return 0.0
    seen = {row.name for row in table.rows if row.colour in colours}
    return len(seen) / len({row.name for row in table.rows})


def _by_colours(root: Path, colours: Counter[tuple[int, ...]]) -> Named:
    shares = {name: _share_seen(read_table(name, Path()), colours) for name in SHIPPED}
    name = max(shares, key=lambda name: shares[name])  # the first of equals
    if shares[name]:
        return Named({"colours": name}, (f"the colours of the masks are those of {name}",))
    shown = ", ".join(str(colour) for colour, _ in colours.most_common(_SHOWN))
    raise DataError(
        f"{root}: masks are in {len(colours)} colours, and nothing names them; expected a table "
        f"class_dict.csv with the columns name, r, g, b. The most frequent: {shown}"
    )

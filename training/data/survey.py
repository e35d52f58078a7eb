"""The look at a data set before anything is trained on it: counts, duplicates, warnings."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.base.folders import IMAGE_SUFFIXES, told
from serving.base.machine.progress import Progress
from training.data.contact_sheet import write_sheet
from training.data.duplicates import near_pairs, same_pixels, thumbnail
from training.data.readers import Pixels
from training.data.samples import Dataset, Samples
from training.data.sampling import known_counts, spread_rows
from training.data.split import SPLITS
from training.errors import BrokenFiles, DataError

Findings = dict[str, Any]

SHEET_FILE = "sheet.npz"

# Images that are decoded at a time; more need more memory and are hardly faster.
_CHUNK = 64
# Duplicates that are named; all are counted.
_NAMED = 50
_NAMED_CLASSES = 5
_BINS = 20
# Images of the largest class for one of the smallest, from which on a warning is given: accuracy
# then says little about the smallest.
_IMBALANCE = 10
# Level of 255 under which the brightest pixel of a data set is told. 12 or 14 bits of a camera in
# files of 16 stay below; whole sets of other images hardly ever do.
_DARK = 64


@dataclass
class _Seen:
    """Notes on each image of a split.

    digests: sha256 of the pixels.
    thumbnails: as near_pairs compares them.
    sizes: height and width before the evaluation transform.
    labels: classification; the class.
    pixels: segmentation; the pixels of all masks by class, int64 [classes].
    brightest: the highest level of 255 in all images.
    rows: the image's number in its split.
    """

    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    thumbnails: list[Pixels] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    pixels: NDArray[np.int64] | None = None
    brightest: int = 0
    rows: list[int] = field(default_factory=list)


def survey(data: Dataset, sheet: Path) -> Findings:
    """Looks at every image once, or at `data.looked_at` of them, evenly spread over the splits;
    classes are then counted as the source counts them. Returns classes, sizes, duplicates across
    splits and warnings, ready for JSON; writes a few images of each class to `sheet`.

    Exact duplicates have equal pixels after the evaluation transform, near ones similar hashes.
    Raises BrokenFiles naming every image that cannot be used, and DataError where train has images
    of no or one class, or lacks a class of a classification.
    """
    splits = {name: getattr(data, name) for name in SPLITS}
    broken: dict[str, dict[str, str]] = {name: {} for name in SPLITS}
    total = sum(map(len, splits.values()))
    share = 1.0 if data.looked_at is None else min(1.0, data.looked_at / total)
    rows = {
        name: spread_rows(len(samples), math.ceil(share * len(samples)))
        for name, samples in splits.items()
    }
    with Progress("data", sum(map(len, rows.values()))) as progress:
        seen = {
            name: _look_at(samples, rows[name], data, broken[name], progress)
            for name, samples in splits.items()
        }
    skipped = {name: reason for split in data.skips for name, reason in broken.pop(split).items()}
    if any(broken.values()):
        unusable = {name: reason for found in broken.values() for name, reason in found.items()}
        raise BrokenFiles(data.name, total, unusable, data.remarks.lines())
    remarks = data.remarks.lines()
    classes = {
        name: _class_counts(found, len(data.classes), splits[name]) for name, found in seen.items()
    }
    masks = seen["train"].pixels is not None
    if share == 1.0 or not masks:
        _check_classes(data, classes["train"], masks=masks)
    found = seen["train"]
    write_sheet(sheet, data, found.rows, found.labels)
    sizes = np.array([size for found in seen.values() for size in found.sizes])
    shown = data.train.batch(seen["train"].rows[:1])[0].shape[1:3]
    findings: Findings = {
        "description": data.description,
        "images": {name: len(samples) for name, samples in splits.items()},
        "looked_at": {name: len(found.names) for name, found in seen.items()},
        "classes": {
            label: {name: counts[index] for name, counts in classes.items()}
            for index, label in enumerate(data.classes)
        },
        # Classes are counted in images or, with masks, as shares of the pixels that count.
        "unit": "pixels" if seen["train"].pixels is not None else "images",
        "sizes": _size_summary(sizes, shown),
        "brightest": max(found.brightest for found in seen.values()),
        "duplicates": _duplicates(seen),
        "broken": skipped,
        "left_out": dict(data.left_out),
    }
    complete = ("train",) if data.open_set else SPLITS
    notes = [*data.notes, *remarks]
    if skipped:
        name, reason = next(iter(skipped.items()))
        notes.append(f"images that will be skipped: {len(skipped)}, such as {name}: {reason}")
    if share < 1.0:
        looked = sum(findings["looked_at"].values())
        notes.append(
            f"looked at {looked:,} of {total:,} images: sizes, duplicates and what is drawn are of "
            "these"
        )
    return {**findings, "warnings": [*notes, *_warnings(findings, complete)]}


def _look_at(
    samples: Samples,
    rows: NDArray[np.intp],
    data: Dataset,
    broken: dict[str, str],
    progress: Progress,
) -> _Seen:
    found = _Seen()
    for start in range(0, len(rows), _CHUNK):
        indices = rows[start : start + _CHUNK].tolist()
        for index, loaded in zip(indices, samples.read(indices), strict=True):
            if isinstance(loaded, str):
                broken[samples.names[index]] = loaded
                continue
            found.rows.append(index)
            found.names.append(samples.names[index])
            found.digests.append(hashlib.sha256(loaded.image.tobytes()).digest())
            found.thumbnails.append(thumbnail(loaded.image))
            found.sizes.append(loaded.size)
            found.brightest = max(found.brightest, int(loaded.image.max()))
            if loaded.target.ndim:
                counts = np.bincount(loaded.target.ravel(), minlength=256)
                if data.ignore_index is not None:
                    counts[data.ignore_index] = 0
                counted = counts[: len(data.classes)]
                found.pixels = counted if found.pixels is None else found.pixels + counted
            else:
                found.labels.append(int(loaded.target))
        progress.advance(len(indices))
    return found


def _class_counts(found: _Seen, classes: int, samples: Samples) -> list[int] | list[float]:
    counts = known_counts(samples)
    if counts is not None:
        return [int(x) for x in counts]
    if found.pixels is not None:
        pixels = found.pixels
        # Six digits instead of six decimals: the share of a rare class must not become 0.
        return [float(f"{x:.6g}") for x in pixels / max(1, pixels.sum())]
    return [int(x) for x in np.bincount(found.labels, minlength=classes)]


def _check_classes(data: Dataset, counts: Sequence[float], *, masks: bool) -> None:
    """Raises DataError where train lacks a class or, with masks, has pixels of one class alone.

    A class that masks of several classes lack is left to a warning: its objects may be too small
    for the network's input.
    """
    missing = [label for label, count in zip(data.classes, counts, strict=True) if not count]
    if not missing or (masks and len(data.classes) - len(missing) > 1):
        return
    named = ", ".join(missing[:_NAMED_CLASSES])
    if not masks:
        raise DataError(
            f"{data.name}: train has no image of {named}; every class needs some to learn from"
        )
    ignored = (
        ""
        if data.ignore_index is None
        else f"; pixels of {data.ignore_index} are ignored, see data.ignore_index"
    )
    raise DataError(
        f"{data.name}: train has no pixel of {named}, so that there is nothing to tell apart"
        f"{ignored}"
    )


def _size_summary(sizes: NDArray[np.int64], shown: tuple[int, ...]) -> Findings:
    """`sizes`: heights and widths [N, 2] of the files; `shown`: those of the network's input."""

    def histogram(sides: NDArray[np.int64]) -> Findings:
        step = max(1, -(-(int(sides.max()) - int(sides.min()) + 1) // _BINS))
        edges = np.arange(int(sides.min()), int(sides.max()) + step + 1, step)
        return {"edges": edges.tolist(), "counts": np.histogram(sides, edges)[0].tolist()}

    return {
        "smallest": sizes.min(axis=0).tolist(),
        "median": [int(x) for x in np.median(sizes, axis=0)],
        "largest": sizes.max(axis=0).tolist(),
        "height": histogram(sizes[:, 0]),
        "width": histogram(sizes[:, 1]),
        "shown": list(shown),
        "enlarged": int((sizes < np.array(shown)).any(axis=1).sum()),
    }


def _duplicates(seen: Mapping[str, _Seen]) -> Findings:
    """Pairs in two splits, which make a measure too good, and equal images of several classes."""
    exact, within, conflicting = [], 0, []
    places = [(split, i) for split, found in seen.items() for i in range(len(found.names))]
    for group in same_pixels([seen[split].digests[i] for split, i in places]):
        members = [places[index] for index in group]
        first: dict[str, int] = {}
        for split, index in members:
            first.setdefault(split, index)
        exact += [(one, other, first[one], first[other]) for one, other in combinations(first, 2)]
        within += len(members) - len(first)
        labels = {seen[split].labels[i] for split, i in members if seen[split].labels}
        if len(labels) > 1:
            conflicting.append([_name(split, seen[split].names[i]) for split, i in members])
    near = []
    for one, other in combinations(seen, 2):
        first_thumbnails = np.stack(seen[other].thumbnails)
        for j, i in near_pairs(first_thumbnails, np.stack(seen[one].thumbnails)):
            if seen[one].digests[i] != seen[other].digests[j]:
                near.append((one, other, i, j))
    return {
        "exact": _told(exact, seen),
        "near": _told(near, seen),
        "within_splits": within,
        "conflicting": {"count": len(conflicting), "first": conflicting[:_NAMED]},
    }


def _told(pairs: list[tuple[str, str, int, int]], seen: Mapping[str, _Seen]) -> Findings:
    """The number of images of the later split with a copy in the earlier, and the first pairs."""
    counts = {
        f"{one}-{other}": len({j for a, b, _, j in pairs if (a, b) == (one, other)})
        for one, other in combinations(seen, 2)
    }
    named = [
        [_name(one, seen[one].names[i]), _name(other, seen[other].names[j])]
        for one, other, i, j in pairs[:_NAMED]
    ]
    return {"count": counts, "first": named}


def _name(split: str, name: str) -> str:
    """A name that is unique among the splits: samples are named by paths, or by numbers from 0."""
    return name if "/" in name else f"{split}/{name}"


def _warnings(findings: Findings, complete: Sequence[str]) -> list[str]:
    """Findings in words. `complete`: the splits that should have images of every class."""
    warnings = []
    if findings["left_out"]:
        warnings.append(
            f"files left out: {told(findings['left_out'])}; images end in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    duplicates = findings["duplicates"]
    for kind, words in (("exact", "also in"), ("near", "nearly also in")):
        for pair, count in duplicates[kind]["count"].items():
            if count:
                one, other = pair.split("-")
                share = 100 * count / findings["looked_at"][other]
                warnings.append(
                    f"images of {other} that are {words} {one}: {count} ({share:.3g} %)"
                )
    if duplicates["conflicting"]["count"]:
        first = " = ".join(duplicates["conflicting"]["first"][0][:2])
        warnings.append(
            f"images that stand under several classes: {duplicates['conflicting']['count']}, "
            f"such as {first}"
        )
    classes = findings["classes"]
    for split in complete:
        empty = [label for label, counts in classes.items() if not counts[split]]
        if empty:
            rest = len(empty) - _NAMED_CLASSES
            more = f" and {rest} more" if rest > 0 else ""
            warnings.append(f"{split} has nothing of {', '.join(empty[:_NAMED_CLASSES])}{more}")
    single = [label for label, counts in classes.items() if counts["train"] == 1]
    if single and findings["unit"] == "images":
        named = ", ".join(single[:_NAMED_CLASSES])
        warnings.append(f"classes with a single image in train: {len(single)}, such as {named}")
    counted = sorted(
        (counts["train"], label) for label, counts in classes.items() if counts["train"]
    )
    if counted[-1][0] >= _IMBALANCE * counted[0][0]:
        (fewest, least), (most, largest) = counted[0], counted[-1]
        warnings.append(
            f"classes are unequal: train has {most / fewest:.0f} times as many {findings['unit']} "
            f"of {largest} as of {least}"
        )
    enlarged, total = findings["sizes"]["enlarged"], sum(findings["looked_at"].values())
    if enlarged:
        height, width = findings["sizes"]["shown"]
        warnings.append(
            f"images that are smaller than the network's {width}x{height} and are enlarged: "
            f"{enlarged} of {total}"
        )
    if findings["brightest"] < _DARK:
        warnings.append(
            f"no pixel is above level {findings['brightest']} of 255; files of 16 bits keep their "
            "high byte, so values of 12 or 14 bits are better spread over all 16"
        )
    return warnings

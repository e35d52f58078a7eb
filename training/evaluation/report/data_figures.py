"""The pictures of the data stage: classes by split, sizes, a sheet of images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.evaluation.report.figures import (
    BARRED_CLASSES,
    BLUE,
    GREY,
    ORANGE,
    Arrays,
    Picture,
    as_rgb,
    overlaid,
    plain_axes,
    rendered,
)


def data_pictures(findings: Mapping[str, Any], sheet: Arrays) -> list[Picture]:
    """Classes by split, sizes of the files, and some of the training images."""
    return [_contact_sheet(sheet), _class_counts(findings), _sizes(findings["sizes"])]


def _class_counts(findings: Mapping[str, Any]) -> Picture:
    names = list(findings["classes"])
    pixels = findings["unit"] == "pixels"
    many = len(names) > BARRED_CLASSES
    size = (5.5, 3.2) if many else (5.5, max(2.0, 0.24 * len(names) + 1.2))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    label = "% of the pixels" if pixels else "images"
    for place, (split, colour) in enumerate((("train", BLUE), ("val", ORANGE), ("test", GREY))):
        values = np.array([findings["classes"][name][split] for name in names], dtype=float)
        values = 100 * values if pixels else values
        if many:
            axes.plot(np.sort(values)[::-1], color=colour, label=split)
        else:
            axes.barh(np.arange(len(names)) + 0.27 * (place - 1), values, 0.25, color=colour,
                      label=split)  # fmt: skip
    if many:
        axes.set(xlabel="classes, the largest first", ylabel=label, ylim=(0, None))
    else:
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel=label)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    plain_axes(axes)
    return Picture(rendered(figure), "Size of each class by split")


def _sizes(sizes: Mapping[str, Any]) -> Picture:
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for side, colour in (("width", BLUE), ("height", ORANGE)):
        edges, counts = sizes[side]["edges"], sizes[side]["counts"]
        axes.stairs(counts, edges, color=colour, label=side, fill=True, alpha=0.5)
    axes.axvline(min(sizes["shown"]), color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="pixels", ylabel="images")
    axes.legend(frameon=False, fontsize=8)
    plain_axes(axes)
    height, width = sizes["median"]
    return Picture(
        rendered(figure),
        f"Sizes of the images as found, {width}x{height} in the middle; dashed: the shorter side "
        "that the network sees",
    )


def _contact_sheet(sheet: Arrays) -> Picture:
    shown = as_rgb(sheet["images"])
    if "masks" in sheet:
        rows = [list(shown), [
            overlaid(image, mask) for image, mask in
            zip(shown, sheet["masks"], strict=True)
        ]]  # fmt: skip
        names = ["image", "mask"]
    else:
        rows = [list(images[:count]) for images, count in zip(shown, sheet["counts"], strict=True)]
        names = [str(name) for name in sheet["classes"]]
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].shape[:2]
    side = 0.75 if "masks" not in sheet else 1.3
    margin = 1.4
    figure = Figure(figsize=(columns * side + margin, len(rows) * side * height / width))
    left = margin / (columns * side + margin)
    # One axes for all: an axes of each image would take a second to draw.
    axes = figure.add_axes((left, 0, 1 - left, 1))
    for row, images in enumerate(rows):
        bottom = len(rows) - row - 1
        figure.text(left - 0.01, (bottom + 0.5) / len(rows), _short(names[row]), fontsize=8,
                    ha="right", va="center")  # fmt: skip
        for column, image in enumerate(images):
            box = (column, column + 0.97, bottom, bottom + 0.97)
            axes.imshow(image, interpolation="nearest", aspect="auto", extent=box)
    axes.set(xlim=(0, columns), ylim=(0, len(rows)))
    axes.set_axis_off()
    return Picture(rendered(figure), "Some of the training images, as the network sees them")


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"

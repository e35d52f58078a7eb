"""The pictures of a report, each as a PNG in text with the words under it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from serving.base.evaluation import class_iou, class_reports
from serving.images.postprocess import overlay_png
from training.evaluation.class_measures import GRID
from training.fitting.epoch_metrics import MEASURE_TITLES, Measure
from training.fitting.lightning_module import History

_BLUE, _ORANGE, _GREY = "#1f77b4", "#e07a1f", "#8a8f98"
# Class numbers are still readable in a matrix of so many.
_NUMBERED_CLASSES = 25
_BARRED_CLASSES = 60
# Curves that can still be told apart.
_NAMED_CURVES = 10

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Picture:
    """A PNG as text that an <img> takes, and the words under it."""

    source: str
    caption: str


def _encoded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def rendered(figure: Figure) -> str:
    """A figure as text that an <img> takes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _encoded(buffer.getvalue())


def training_curves(stage: str, history: History) -> Picture:
    """Loss and score over the epochs, side by side."""
    epochs = [row["epoch"] for row in history]
    score = next(key for key in history[0] if key.removeprefix("val_") in MEASURE_TITLES)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    # A single epoch has no line to draw.
    marker = "o" if len(epochs) == 1 else ""
    for key, colour, label in (("loss", _BLUE, "training"), ("val_loss", _ORANGE, "validation")):
        if key in history[0]:
            left.plot(epochs, [row[key] for row in history], color=colour, marker=marker,
                      label=label)  # fmt: skip
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    right.plot(epochs, [100 * row[score] for row in history], color=_ORANGE, marker=marker)
    title = MEASURE_TITLES[score.removeprefix("val_")]
    right.set(xlabel="epoch", ylabel=f"validation {title}, %")
    plain_axes(left, right)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    seconds = sum(row["seconds"] for row in history)
    end, best = 100 * history[-1][score], 100 * max(row[score] for row in history)
    caption = (
        f"{stage}: {len(history)} epochs, {seconds:.0f} s; validation {title} {end:.2f} % "
        f"at the end, {best:.2f} % at best"
    )
    return Picture(rendered(figure), caption)


def class_pictures(
    task: str, confusion: NDArray[np.int64], classes: Sequence[str]
) -> list[Picture]:
    pictures = [_confusion(confusion, classes, "images" if task == "classification" else "pixels")]
    if len(classes) <= _BARRED_CLASSES:
        pictures.append(_bars(task, confusion, classes))
    return pictures


def _confusion(confusion: NDArray[np.int64], classes: Sequence[str], unit: str) -> Picture:
    count = len(classes)
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares = confusion / totals
    side = float(np.clip(0.42 * count + 1.5, 3.8, 10))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if count <= _NUMBERED_CLASSES:
        axes.set_xticks(range(count), classes, rotation=45, ha="right")
        axes.set_yticks(range(count), classes)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            share = shares[row, column]
            text = f"{confusion[row, column]}" if unit == "images" else f"{100 * share:.1f}"
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    numbers = "images" if unit == "images" else "% of the pixels of the true class"
    shown = f"numbers are {numbers}" if count <= _NUMBERED_CLASSES else "darker is a larger share"
    return Picture(rendered(figure), f"Confusion matrix; {shown}")


def _bars(task: str, confusion: NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """Per class: IoU of a segmentation, recall of a classification."""
    if task == "segmentation":
        values, label = class_iou(confusion), "IoU"
    else:
        values = np.array([report.recall for report in class_reports(confusion)])
        label = "recall"
    figure = Figure(figsize=(5, max(2.0, 0.3 * len(classes) + 0.8)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.barh(places, np.nan_to_num(values) * 100, color=_BLUE, height=0.65)
    for place, value in enumerate(values):
        text = "absent" if np.isnan(value) else f"{100 * value:.1f}"
        inside = not np.isnan(value) and value > 0.2
        axes.text(
            100 * np.nan_to_num(value) + (-1.5 if inside else 1.5),
            place,
            text,
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else "black",
            fontsize=8,
        )
    axes.set_yticks(places, classes)
    axes.set(xlabel=f"{label}, %", xlim=(0, 100))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(rendered(figure), f"{label} of each class")


def answer_pictures(
    measure: Measure, arrays: Arrays, evaluated: Mapping[str, Any]
) -> list[Picture]:
    """Of the answers in `arrays`; `measure` is what the scores of masks are."""
    classes, count = evaluated["classes"], len(arrays["images"])
    match measure:
        case "top1":
            return [_classified(arrays, index, classes) for index in range(count)]
        case "rank1":
            return [_matched(arrays, index) for index in range(count)]
        case "miou" | "iou":
            ignored, title = evaluated["ignore_index"], MEASURE_TITLES[measure]
            return [_segmented(arrays, index, classes, ignored, title) for index in range(count)]


def _classified(arrays: Arrays, index: int, classes: Sequence[str]) -> Picture:
    predicted, target = int(arrays["predictions"][index]), int(arrays["targets"][index])
    share = 100 * float(arrays["confidences"][index])
    right = "right" if predicted == target else f"wrong, it is {classes[target]}"
    figure = Figure(figsize=(1.6, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(arrays["images"][index], interpolation="nearest")
    axes.set_axis_off()
    return Picture(
        rendered(figure),
        f"{arrays['names'][index]}: {classes[predicted]} ({share:.0f} %), {right}",
    )


def _matched(arrays: Arrays, index: int) -> Picture:
    """A probe and the gallery image that is nearest to it, side by side."""
    right = "right" if arrays["scores"][index] else "wrong"
    cosine = float(arrays["confidences"][index])
    figure = Figure(figsize=(3.2, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(arrays["images"][index], interpolation="nearest")
    axes.set_axis_off()
    return Picture(
        rendered(figure),
        f"{arrays['names'][index]} is nearest to {arrays['matches'][index]} "
        f"(cosine {cosine:.2f}), {right}",
    )


def _segmented(
    arrays: Arrays, index: int, classes: Sequence[str], ignored: int | None, title: str
) -> Picture:
    """The image, the true mask and the predicted one, side by side."""
    image, target = arrays["images"][index], arrays["targets"][index].copy()
    predicted = arrays["predictions"][index]
    if ignored is not None:
        target[target == ignored] = 0
    figure = Figure(figsize=(6, 2))
    for place, content in enumerate((None, target, predicted)):
        axes = figure.add_axes((place / 3, 0, 1 / 3, 1))
        axes.imshow(
            image if content is None else _overlaid(image, content), interpolation="nearest"
        )
        axes.set_axis_off()
    seen = ", ".join(classes[value] for value in np.unique(target) if value > 0) or classes[0]
    score = 100 * float(arrays["scores"][index])
    return Picture(rendered(figure), f"{arrays['names'][index]}: {seen}; {title} {score:.0f} %")


def _overlaid(image: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(imread(io.BytesIO(overlay_png(image, mask)), format="png"))


def calibration(arrays: Arrays, error: float, unit: str) -> Picture:
    """Reliability diagram: what is right among the answers of each confidence."""
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    count = arrays["bin_count"]
    width = 100 / len(count)
    centres = (np.arange(len(count)) + 0.5) * width
    upper.bar(centres, 100 * np.nan_to_num(arrays["bin_accuracy"]), 0.9 * width, color=_BLUE)
    upper.plot([0, 100], [0, 100], color=_GREY, linestyle="--", linewidth=1)
    upper.set(ylabel=f"right, % of {unit}", ylim=(0, 100), xlim=(0, 100))
    lower.bar(centres, 100 * count / max(1.0, count.sum()), 0.9 * width, color=_GREY)
    lower.set(xlabel="confidence, %", ylabel="share, %")
    plain_axes(upper, lower)
    return Picture(
        rendered(figure),
        f"Calibration: expected calibration error {100 * error:.2f} %. "
        "Bars under the dashed line: answers are surer than they should be",
    )


def ranking_curves(
    arrays: Arrays, classes: Sequence[str], precisions: Sequence[float | None]
) -> list[Picture]:
    """Precision over recall and the ROC, of each class against the rest; where there are many, of
    those with the lowest average precision, with the mean over all. None where no class has both
    examples and others."""
    known = [index for index, value in enumerate(precisions) if value is not None]
    if not known:
        return []
    named = sorted(known, key=lambda index: precisions[index] or 0.0)[:_NAMED_CURVES]
    pictures = []
    for key, xlabel, ylabel, title in (
        ("precision", "recall", "precision", "Precision and recall"),
        ("recall", "false positive rate", "recall (true positive rate)", "ROC"),
    ):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for index in sorted(named):
            axes.plot(GRID, arrays[key][index], linewidth=1, alpha=0.8, label=classes[index])
        if len(known) > 1:
            mean = np.mean(arrays[key][known], axis=0)
            axes.plot(GRID, mean, color="black", linewidth=2, label="mean of all")
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize=8)
        plain_axes(axes)
        if len(known) == 1:
            of = classes[known[0]]
        else:
            of = "each class" if len(named) == len(known) else f"the {len(named)} lowest classes"
        pictures.append(Picture(rendered(figure), f"{title}, {of} against the rest"))
    return pictures


def data_pictures(findings: Mapping[str, Any], sheet: Arrays) -> list[Picture]:
    """Classes by split, sizes of the files, and some of the training images."""
    return [_contact_sheet(sheet), _class_counts(findings), _sizes(findings["sizes"])]


def _class_counts(findings: Mapping[str, Any]) -> Picture:
    names = list(findings["classes"])
    pixels = findings["unit"] == "pixels"
    many = len(names) > _BARRED_CLASSES
    size = (5.5, 3.2) if many else (5.5, max(2.0, 0.24 * len(names) + 1.2))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    label = "% of the pixels" if pixels else "images"
    for place, (split, colour) in enumerate((("train", _BLUE), ("val", _ORANGE), ("test", _GREY))):
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
    for side, colour in (("width", _BLUE), ("height", _ORANGE)):
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
    if "masks" in sheet:
        rows = [list(sheet["images"]), [
            _overlaid(image, mask) for image, mask in
            zip(sheet["images"], sheet["masks"], strict=True)
        ]]  # fmt: skip
        names = ["image", "mask"]
    else:
        rows = [
            list(images[:count])
            for images, count in zip(sheet["images"], sheet["counts"], strict=True)
        ]
        names = [str(name) for name in sheet["classes"]]
    columns = max(len(row) for row in rows)
    height, width = rows[0][0].shape[:2]
    side = 0.75 if "masks" not in sheet else 1.3
    margin = 1.4
    figure = Figure(figsize=(columns * side + margin, len(rows) * side * height / width))
    left = margin / (columns * side + margin)
    for row, images in enumerate(rows):
        bottom = 1 - (row + 1) / len(rows)
        figure.text(left - 0.01, bottom + 0.5 / len(rows), _short(names[row]), fontsize=8,
                    ha="right", va="center")  # fmt: skip
        for column, image in enumerate(images):
            step = (1 - left) / columns
            box = (left + column * step, bottom, 0.97 * step, 0.97 / len(rows))
            axes = figure.add_axes(box)
            axes.imshow(image, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    return Picture(rendered(figure), "Some of the training images, as the network sees them")


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def plain_axes(*every: Axes) -> None:
    """A faint grid and no box."""
    for axes in every:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)

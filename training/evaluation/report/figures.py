"""The pictures of a report, each as a PNG in text with the words under it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from serving.base.evaluation import class_iou, class_reports
from serving.base.task import Task
from serving.images.postprocess import overlay_png
from training.evaluation.class_measures import GRID
from training.fitting.lightning_module import History
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS

# Otherwise "$" in the names of classes would begin a formula, or an error.
matplotlib.rcParams["text.parse_math"] = False

BLUE, ORANGE, GREY = "#1f77b4", "#e07a1f", "#8a8f98"
# Most classes of a matrix in which numbers are still readable.
_NUMBERED_CLASSES = 25
# Most classes that have a bar each.
BARRED_CLASSES = 60
# Most curves of a picture that an eye can follow.
_NAMED_CURVES = 10

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Picture:
    """A PNG as text that an <img> takes, and the words under it."""

    source: str
    caption: str


def as_rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [..., H, W, C] as RGB: pictures show grey as grey, not in colours of a scale."""
    return np.broadcast_to(images, (*images.shape[:-1], 3))


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
    for key, colour, label in (("loss", BLUE, "training"), ("val_loss", ORANGE, "validation")):
        if key in history[0]:
            left.plot(epochs, [row[key] for row in history], color=colour, marker=marker,
                      label=label)  # fmt: skip
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    right.plot(epochs, [100 * row[score] for row in history], color=ORANGE, marker=marker)
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
    task: Task, confusion: NDArray[np.int64], classes: Sequence[str]
) -> list[Picture]:
    """The confusion matrix [C, C] and, where there are not too many classes, a bar for each."""
    pictures = [_confusion(confusion, classes, TRAINED_TASKS[task].counted)]
    if len(classes) <= BARRED_CLASSES:
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


def _bars(task: Task, confusion: NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """Per class: IoU of a segmentation, recall of a classification."""
    label = TRAINED_TASKS[task].class_measure
    if label == "IoU":
        values = class_iou(confusion)
    else:
        values = np.array([report.recall for report in class_reports(confusion)])
    figure = Figure(figsize=(5, max(2.0, 0.3 * len(classes) + 0.8)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.barh(places, np.nan_to_num(values) * 100, color=BLUE, height=0.65)
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


def calibration(arrays: Arrays, error: float, unit: str) -> Picture:
    """Reliability diagram: the share of right answers by their confidence."""
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    count = arrays["bin_count"]
    width = 100 / len(count)
    centres = (np.arange(len(count)) + 0.5) * width
    upper.bar(centres, 100 * np.nan_to_num(arrays["bin_accuracy"]), 0.9 * width, color=BLUE)
    upper.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    upper.set(ylabel=f"right, % of {unit}", ylim=(0, 100), xlim=(0, 100))
    lower.bar(centres, 100 * count / max(1.0, count.sum()), 0.9 * width, color=GREY)
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


def overlaid(image: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    """An image with its mask over it in colours, float32 [H, W, 3 or 4] in [0, 1]."""
    return np.asarray(imread(io.BytesIO(overlay_png(image, mask)), format="png"))


def plain_axes(*every: Axes) -> None:
    """A faint grid and no box."""
    for axes in every:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)

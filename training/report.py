"""One HTML file a person can read: what was built, how good it is, and where it is wrong."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from serving.evaluation import class_iou, class_reports
from serving.postprocess import overlay_png
from training.learner import History
from training.metrics import MEASURE_TITLES
from training.recipe import Recipe
from training.results import Searched, Verification
from training.tables import measure_rows, variant_rows

_BLUE, _ORANGE, _GREY, _RED = "#1f77b4", "#e07a1f", "#8a8f98", "#c62828"
# Class numbers are still readable in a matrix of so many.
_NUMBERED_CLASSES = 25
_BARRED_CLASSES = 60


@dataclass(frozen=True)
class Picture:
    """A PNG as text that an <img> takes, and the words under it."""

    source: str
    caption: str


def write_report(
    path: Path,
    *,
    recipe: Recipe,
    environment: Mapping[str, Any],
    histories: Mapping[str, History],
    sensitivities: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Sequence[str],
    searched: Searched | None,
    seconds: Mapping[str, float],
    verification: Verification | None,
    evaluated: Mapping[str, Any],
    pictures: Path,
) -> None:
    """Writes the report of a run; parts whose stage has not run yet are left out.

    `evaluated` and `pictures` are what the verify stage left.
    """
    templates = Environment(
        loader=PackageLoader("training"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves = [_curves(stage, history) for stage, history in histories.items() if history]
    layers = [_sensitivity(stage, found) for stage, all_ in sensitivities.items() for found in all_]
    answers: list[Picture] = []
    classes: list[Picture] = []
    if verification is not None:
        with np.load(pictures) as arrays:
            if recipe.task == "embedding":
                classes = [_pairs(arrays["genuine"], arrays["impostor"])]
            else:
                classes = _class_pictures(recipe.task, arrays["confusion"], evaluated["classes"])
            answers = _answer_pictures(recipe.task, dict(arrays), evaluated)
    html = templates.get_template("report.html.j2").render(
        recipe=recipe,
        recipe_text=yaml.safe_dump(
            recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        ),
        environment=environment,
        seconds=seconds,
        verification=verification,
        evaluated=evaluated,
        measure=MEASURE_TITLES[verification.measure] if verification is not None else "",
        rows=variant_rows(verification) if verification is not None else [],
        measures=measure_rows(verification) if verification is not None else [],
        curves=curves,
        layer_pictures=layers,
        notes=notes,
        search_picture=_pareto(searched) if searched is not None else None,
        class_pictures=classes,
        answer_pictures=answers,
    )
    path.write_text(html, encoding="utf-8")


def _encoded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rendered(figure: Figure) -> str:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _encoded(buffer.getvalue())


def _curves(stage: str, history: History) -> Picture:
    """Loss and score over the epochs, side by side."""
    epochs = [row["epoch"] for row in history]
    score = next(key for key in history[0] if key.removeprefix("val_") in MEASURE_TITLES)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], color=_BLUE, label="training")
    if "val_loss" in history[0]:
        left.plot(epochs, [row["val_loss"] for row in history], color=_ORANGE, label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    right.plot(epochs, [100 * row[score] for row in history], color=_ORANGE)
    title = MEASURE_TITLES[score.removeprefix("val_")]
    right.set(xlabel="epoch", ylabel=f"validation {title}, %")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    seconds = sum(row["seconds"] for row in history)
    end, best = 100 * history[-1][score], 100 * max(row[score] for row in history)
    caption = (
        f"{stage}: {len(history)} epochs, {seconds:.0f} s; validation {title} {end:.2f} % "
        f"at the end, {best:.2f} % at best"
    )
    return Picture(_rendered(figure), caption)


def _sensitivity(stage: str, found: Mapping[str, Any]) -> Picture:
    """A bar a layer: the answers that change when it alone is touched."""
    changed = {name: 100 * (1 - value) for name, value in found["agreement"].items()}
    figure = Figure(figsize=(9, max(2.0, 0.2 * len(changed) + 0.8)), layout="constrained")
    axes = figure.subplots()
    colours = [_ORANGE if name in found["left_alone"] else _BLUE for name in changed]
    axes.barh(range(len(changed)), list(changed.values()), color=colours, height=0.65)
    axes.set_yticks(range(len(changed)), list(changed), fontsize=7)
    axes.set(xlabel="answers that change, %")
    axes.invert_yaxis()
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    left = "; left alone (orange): " + ", ".join(found["left_alone"]) if found["left_alone"] else ""
    caption = f"{stage}: {found['title']}, on {found['images']} validation images{left}"
    return Picture(_rendered(figure), caption)


def _pareto(searched: Searched) -> Picture:
    """All that a search tried, by latency and drop, with the front and what was chosen."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    groups = sorted({(one.point.network, one.point.variant) for one in searched.tried})
    for index, group in enumerate(groups):
        some = [one for one in searched.tried if (one.point.network, one.point.variant) == group]
        axes.scatter(
            [one.milliseconds for one in some],
            [100 * one.drop for one in some],
            s=28,
            marker="os^Dv"[index % 5],
            label=", ".join(group),
        )
    front = searched.front()
    axes.step(
        [one.milliseconds for one in front],
        [100 * one.drop for one in front],
        where="post",
        color=_GREY,
        linewidth=1,
    )
    chosen = next(one for one in searched.tried if one.point == searched.chosen)
    axes.scatter(
        [chosen.milliseconds], [100 * chosen.drop], s=160, facecolors="none", edgecolors=_RED
    )
    axes.set(xlabel="milliseconds", ylabel="drop on validation images, points")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    point = searched.chosen
    caption = (
        f"{searched.bound}: {point.network}, {100 * point.ratio:.0f} % pruned, {point.variant} "
        f"(circled) of {len(searched.tried)} tried; {searched.measured}"
    )
    return Picture(_rendered(figure), caption)


def _class_pictures(
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
    return Picture(_rendered(figure), f"Confusion matrix; numbers are {numbers}")


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
    return Picture(_rendered(figure), f"{label} of each class")


def _pairs(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> Picture:
    """How far pairs of one person and pairs of two lie apart."""
    edges = np.linspace(-1, 1, len(genuine) + 1)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for shares, colour, label in ((genuine, _BLUE, "same person"), (impostor, _RED, "two people")):
        axes.stairs(100 * shares, edges, fill=True, alpha=0.5, color=colour, label=label)
    axes.set(xlabel="cosine of the two embeddings", ylabel="% of the pairs")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(_rendered(figure), "Cosine of all pairs of test images")


def _answer_pictures(
    task: str, arrays: Mapping[str, NDArray[Any]], evaluated: Mapping[str, Any]
) -> list[Picture]:
    draw = {"classification": _classified, "segmentation": _segmented, "embedding": _matched}[task]
    classes = evaluated["classes"]
    return [
        draw(arrays, index, classes, evaluated["ignore_index"])
        for index in range(len(arrays["images"]))
    ]


def _classified(
    arrays: Mapping[str, NDArray[Any]], index: int, classes: Sequence[str], _ignored: int | None
) -> Picture:
    predicted, target = int(arrays["predictions"][index]), int(arrays["targets"][index])
    share = 100 * float(arrays["confidences"][index])
    right = "right" if predicted == target else f"wrong, it is {classes[target]}"
    figure = Figure(figsize=(1.6, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(arrays["images"][index], interpolation="nearest")
    axes.set_axis_off()
    return Picture(
        _rendered(figure),
        f"{arrays['names'][index]}: {classes[predicted]} ({share:.0f} %), {right}",
    )


def _matched(
    arrays: Mapping[str, NDArray[Any]], index: int, _classes: Sequence[str], _ignored: int | None
) -> Picture:
    """A probe and the gallery image that is nearest to it, side by side."""
    right = "right" if arrays["scores"][index] else "wrong"
    cosine = float(arrays["confidences"][index])
    figure = Figure(figsize=(3.2, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(arrays["images"][index], interpolation="nearest")
    axes.set_axis_off()
    return Picture(
        _rendered(figure),
        f"{arrays['names'][index]} is nearest to {arrays['matches'][index]} "
        f"(cosine {cosine:.2f}), {right}",
    )


def _segmented(
    arrays: Mapping[str, NDArray[Any]], index: int, classes: Sequence[str], ignored: int | None
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
    return Picture(_rendered(figure), f"{arrays['names'][index]}: {seen}; mean IoU {score:.0f} %")


def _overlaid(image: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(imread(io.BytesIO(overlay_png(image, mask)), format="png"))

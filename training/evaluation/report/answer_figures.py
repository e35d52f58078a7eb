"""The pictures of single answers: an image, with the truth and the network's answer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serving.base.task import Measure
from training.evaluation.report.figures import Arrays, Picture, as_rgb, overlaid, rendered
from training.recipes.tasks import MEASURE_TITLES


def answer_pictures(
    measure: Measure, arrays: Arrays, evaluated: Mapping[str, Any]
) -> list[Picture]:
    """One picture of each answer in `arrays`; `measure` is the score of an answer."""
    draw = ANSWER_PICTURES[measure]
    title = MEASURE_TITLES[measure]
    arrays = {**arrays, "images": as_rgb(arrays["images"])}
    return [draw(arrays, index, evaluated, title) for index in range(len(arrays["images"]))]


def _classified(arrays: Arrays, index: int, evaluated: Mapping[str, Any], title: str) -> Picture:
    classes = evaluated["classes"]
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


def _matched(arrays: Arrays, index: int, evaluated: Mapping[str, Any], title: str) -> Picture:
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


def _segmented(arrays: Arrays, index: int, evaluated: Mapping[str, Any], title: str) -> Picture:
    """The image, the true mask and the predicted one, side by side."""
    classes, ignored = evaluated["classes"], evaluated["ignore_index"]
    image, target = arrays["images"][index], arrays["targets"][index].copy()
    predicted = arrays["predictions"][index]
    if ignored is not None:
        target[target == ignored] = 0
    figure = Figure(figsize=(6, 2))
    for place, content in enumerate((None, target, predicted)):
        axes = figure.add_axes((place / 3, 0, 1 / 3, 1))
        axes.imshow(image if content is None else overlaid(image, content), interpolation="nearest")
        axes.set_axis_off()
    seen = ", ".join(classes[value] for value in np.unique(target) if value > 0) or classes[0]
    score = 100 * float(arrays["scores"][index])
    return Picture(rendered(figure), f"{arrays['names'][index]}: {seen}; {title} {score:.0f} %")


ANSWER_PICTURES: dict[Measure, Callable[[Arrays, int, Mapping[str, Any], str], Picture]] = {
    "top1": _classified,
    "rank1": _matched,
    "miou": _segmented,
    "iou": _segmented,
}

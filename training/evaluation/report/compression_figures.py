"""Pictures of compression: the layers that suffer most, and the networks that a search tried."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from training.evaluation.report.figures import Picture, rendered
from training.evaluation.searched import Point, Searched, Tried

_BLUE, _ORANGE, _GREY, _RED = "#1f77b4", "#e07a1f", "#8a8f98", "#c62828"


def sensitivity_picture(stage: str, found: Mapping[str, Any]) -> Picture:
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
    return Picture(rendered(figure), caption)


def pareto_picture(searched: Searched) -> Picture:
    """All points of a search by latency and drop, with the front and the chosen one."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[Tried]] = {}
    for one in sorted(searched.tried, key=lambda one: (one.point.trained, one.point.variant)):
        groups.setdefault(_group(one.point), []).append(one)
    for index, (group, some) in enumerate(groups.items()):
        axes.scatter(
            [one.milliseconds for one in some],
            [100 * one.drop for one in some],
            s=28,
            marker="os^Dv"[index % 5],
            label=group,
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
    caption = (
        f"{searched.bound}: {searched.chosen} (circled) of {len(searched.tried)} tried; "
        f"{searched.measured}"
    )
    return Picture(rendered(figure), caption)


def _group(point: Point) -> str:
    """The label of points that differ by their ratio alone."""
    height, width = point.size
    return f"{point.network} at {height}x{width}, {point.variant}"

"""Plots as inline SVG, which need no script and no style of their own.

Places across are in per cent of the plot's width, places down in pixels: texts, dots and lines keep
their size on a phone, where a plot that is scaled as a whole could not be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from training.evaluation.report.axes import Axis

HEIGHT = 240
"""Pixels of a plot without its axis across."""

# Pixels that a plot is wide on a phone: labels that do not meet there meet nowhere.
_NARROW = 290
# Pixels of a label of two digits, and its places beside a dot: right, left, above, below.
_LABEL = (15, 12)
_PLACES = ((15, 4), (-15, 4), (0, -9), (0, 18), (15, -8), (-15, -8), (15, 16), (-15, 16))

Shape = Literal["circle", "square", "diamond", "cross"]
Sign = Shape | Literal["line"]
# An entry of a legend: its name, colour and sign, and whether it is hollow.
Key = tuple[str, int, Sign, bool]
_SHAPES: dict[Shape, str] = {
    "circle": '<circle r="5"/>',
    "square": '<rect x="-5" y="-5" width="10" height="10"/>',
    "diamond": '<path d="M0-6.5 6.5 0 0 6.5-6.5 0Z"/>',
    "cross": '<path d="M-5-5 5 5M5-5-5 5"/>',
}


@dataclass(frozen=True)
class Line:
    """A line through points; None leaves a gap. step: it keeps each value up to the next point."""

    points: Sequence[tuple[float | None, float | None]]
    colour: int
    name: str = ""
    dashed: bool = False
    step: bool = False


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    points: Sequence[tuple[float, float, float]]
    colour: int


@dataclass(frozen=True)
class Bars:
    """Bars of equal width, which fill the axis; None where there is none."""

    heights: Sequence[float | None]
    colour: int
    name: str = ""
    pale: bool = False


@dataclass(frozen=True)
class Dot:
    """A point with its interval.

    label: a text beside it, left out where there is no room.
    title: shown when a mouse rests on it.
    """

    x: float
    y: float
    colour: int
    shape: Shape = "circle"
    hollow: bool = False
    low: float | None = None
    high: float | None = None
    label: str = ""
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot with its legend."""

    caption: str
    x: Axis
    y: Axis
    layers: Sequence[Line | Band | Bars] = ()
    dots: Sequence[Dot] = ()
    legend: Sequence[Key] = ()
    height: int = HEIGHT

    def __html__(self) -> Markup:
        """The plot as a figure."""
        inner = [_grid(self), *(_layer(layer, self) for layer in self.layers)]
        inner += [_interval(dot, self) for dot in self.dots]
        inner += [_mark(dot, self) for dot in self.dots]
        inner += _labels(self)
        scale = Markup("").join(
            Markup('<text x="46" y="{:.1f}" text-anchor="end">{}</text>').format(
                self.height * (1 - self.y.share(value)) + 4, label
            )
            for value, label in self.y.ticks
        )
        return Markup(
            '<figure class="plot"><p class="axis">{}</p>'
            '<div class="chart" role="img" aria-label="{}">'
            '<svg class="scale" width="50" height="{}">{}</svg>'
            '<svg class="area" width="100%" height="{}">{}</svg></div>'
            "{}<figcaption>{}</figcaption></figure>"
        ).format(
            self.y.title,
            self.caption,
            self.height + 44,
            scale,
            self.height + 44,
            Markup("").join(inner),
            _legend(self),
            self.caption,
        )


def _grid(plot: Plot) -> Markup:
    lines = [
        Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(
            plot.height * (1 - plot.y.share(value))
        )
        for value, _ in plot.y.ticks
    ]
    lines += [
        Markup(
            '<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}"/>'
            '<text x="{0:.2f}%" y="{2}" text-anchor="middle">{3}</text>'
        ).format(100 * plot.x.share(value), plot.height, plot.height + 17, label)
        for value, label in plot.x.ticks
    ]
    lines.append(
        Markup('<text class="axis" x="50%" y="{}" text-anchor="middle">{}</text>').format(
            plot.height + 37, plot.x.title
        )
    )
    return Markup("").join(lines)


def _layer(layer: Line | Band | Bars, plot: Plot) -> Markup:
    """Drawn in a field of 1000 by 1000, which is stretched to the plot; lines keep their width."""
    if isinstance(layer, Bars):
        return _bars(layer, plot)
    if isinstance(layer, Band):
        upper = [_place(plot, x, high) for x, _, high in layer.points]
        lower = [_place(plot, x, low) for x, low, _ in reversed(layer.points)]
        shape = Markup('<polygon class="band c{}" points="{}"/>').format(
            layer.colour, " ".join([*upper, *lower])
        )
    else:
        shape = Markup("").join(
            Markup('<polyline class="line c{}{}{}" points="{}"/>').format(
                layer.colour,
                " dashed" if layer.dashed else "",
                " single" if run[0] == run[-1] else "",
                " ".join(run),
            )
            for run in _runs(layer, plot)
        )
    return Markup(
        '<svg width="100%" height="{}" viewBox="0 0 1000 1000" preserveAspectRatio="none">{}</svg>'
    ).format(plot.height, shape)


def _runs(line: Line, plot: Plot) -> list[list[str]]:
    """The stretches of a line between its gaps."""
    runs: list[list[str]] = [[]]
    before: float | None = None
    for x, y in line.points:
        if x is None or y is None:
            runs.append([])
            before = None
            continue
        if line.step and before is not None:
            runs[-1].append(_place(plot, x, before))
        runs[-1].append(_place(plot, x, y))
        before = y
    # A line of one point is drawn as a dot: from the point to itself, with round ends.
    return [run if len(run) > 1 else [run[0], run[0]] for run in runs if run]


def _place(plot: Plot, x: float, y: float) -> str:
    return f"{1000 * plot.x.share(x):.1f},{1000 * (1 - plot.y.share(y)):.1f}"


def _bars(bars: Bars, plot: Plot) -> Markup:
    width = 100 / len(bars.heights)
    return Markup("").join(
        Markup('<rect class="bar c{}{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"/>')
        .format(
            bars.colour,
            " pale" if bars.pale else "",
            index * width + 0.06 * width,
            plot.height * (1 - plot.y.share(height)),
            0.88 * width,
            plot.height * plot.y.share(height),
        )
        for index, height in enumerate(bars.heights)
        if height
    )  # fmt: skip


def _interval(dot: Dot, plot: Plot) -> Markup:
    if dot.low is None or dot.high is None:
        return Markup("")
    return Markup(
        '<line class="interval c{}" x1="{:.2f}%" x2="{:.2f}%" y1="{:.1f}" y2="{:.1f}"/>'
    ).format(
        dot.colour,
        100 * plot.x.share(dot.x),
        100 * plot.x.share(dot.x),
        plot.height * (1 - plot.y.share(dot.high)),
        plot.height * (1 - plot.y.share(dot.low)),
    )


def _mark(dot: Dot, plot: Plot) -> Markup:
    return Markup(
        '<svg x="{:.2f}%" y="{:.1f}" class="mark c{}{}">{}<title>{}</title></svg>'
    ).format(
        100 * plot.x.share(dot.x),
        plot.height * (1 - plot.y.share(dot.y)),
        dot.colour,
        " hollow" if dot.hollow else "",
        Markup(_SHAPES[dot.shape]),
        dot.title,
    )


def _labels(plot: Plot) -> list[Markup]:
    """The labels that meet neither a dot nor one another on the narrowest page."""
    places = [
        (_NARROW * plot.x.share(dot.x), plot.height * (1 - plot.y.share(dot.y)))
        for dot in plot.dots
    ]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    drawn = []
    for dot, (x, y) in zip(plot.dots, places, strict=True):
        if not dot.label:
            continue
        for right, down in _PLACES:
            left, bottom = x + right - _LABEL[0] / 2, y + down + 2
            box = (left, bottom - _LABEL[1], left + _LABEL[0], bottom)
            inside = box[1] > 0 and box[3] < plot.height and box[0] > -40 and box[2] < _NARROW + 8
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                drawn.append(
                    Markup(
                        '<svg x="{:.2f}%" y="{:.1f}" class="label"><text x="{}" y="{}" '
                        'text-anchor="middle">{}</text></svg>'
                    ).format(100 * plot.x.share(dot.x), y, right, down, dot.label)
                )
                break
    return drawn


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend(plot: Plot) -> Markup:
    entries: list[Markup] = [
        Markup('<span class="key">{}{}</span>').format(swatch(colour, shape, hollow=hollow), name)
        for name, colour, shape, hollow in plot.legend
    ]
    named = [layer for layer in plot.layers if isinstance(layer, Line | Bars) and layer.name]
    entries += [
        Markup('<span class="key">{}{}</span>').format(
            swatch(one.colour, "line" if isinstance(one, Line) else "square"), one.name
        )
        for one in named
    ]
    if len(entries) < 2:
        return Markup("")
    return Markup('<p class="legend">{}</p>').format(Markup("").join(entries))


def swatch(colour: int, shape: Sign, *, hollow: bool = False) -> Markup:
    """A sample of a colour and shape, for legends and tables."""
    inner = '<path d="M-7 0H7"/>' if shape == "line" else _SHAPES[shape]
    kind = "line" if shape == "line" else "mark"
    return Markup(
        '<svg class="swatch" width="16" height="14" viewBox="-8 -7 16 14" aria-hidden="true">'
        '<g class="{} c{}{}">{}</g></svg>'
    ).format(kind, colour, " hollow" if hollow else "", Markup(inner))


def strip(values: Sequence[float], scale: tuple[float, float], colour: int = 0) -> Markup:
    """Values as dots on a line in a table's cell, from one end of the scale to the other, and their
    mean."""
    low, high = scale
    places = [4 + 92 * (value - low) / ((high - low) or 1.0) for value in values]
    dots = Markup("").join(
        Markup('<circle class="bar c{} pale" cx="{:.2f}%" cy="10" r="5"/>').format(colour, place)
        for place in places
    )
    return Markup(
        '<svg class="level" width="100%" height="20" role="img" aria-label="{}">'
        '<line class="grid" x1="0" x2="100%" y1="10" y2="10"/>{}'
        '<line class="mean" x1="{mean:.2f}%" x2="{mean:.2f}%" y1="0" y2="20"/></svg>'
    ).format(
        ", ".join(f"{100 * value:.2f} %" for value in values),
        dots,
        mean=sum(places) / len(places),
    )


def level(share: float, colour: int = 0, *, width: int = 100) -> Markup:
    """A bar in a table's cell, `share` of the cell long."""
    return Markup(
        '<svg class="level" width="{}%" height="10" aria-hidden="true">'
        '<rect class="bar c{}" width="{:.2f}%" height="10"/></svg>'
    ).format(width, colour, 100 * min(1.0, max(0.0, share)))

"""Draws line charts as inline SVG."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_WIDTH, _HEIGHT = 620, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 42
# Palette of Okabe and Ito, for readers with a colour vision deficiency.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#777777")

Scale = Literal["linear", "log", "percentile"]


@dataclass(frozen=True)
class Series:
    """A named line.

    points: (x, y); y of NaN leaves a gap.
    marked: whether each point has a dot.
    joined: whether a line joins the points.
    labels: tooltip of each point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    marked: bool = False
    joined: bool = True
    labels: Sequence[str] = ()


def chart(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    *,
    shaded: float = 0.0,
) -> str:
    """A chart as a figure element; "" where there is no point.

    x_scale: the percentile scale takes percents and stretches the tail: 99 is as far from 90 as
        99.9 from 99.
    shaded: the x up to which the background is shaded, as the warm-up.
    """
    points = [p for s in series for p in s.points if not math.isnan(p[1])]
    if not points:
        return ""
    x = _Axis([p[0] for p in points], x_scale, _LEFT, _WIDTH - _RIGHT)
    y = _Axis([p[1] for p in points], y_scale, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} '
        f'{_HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">'
    ]
    if shaded:
        width = x.place(shaded) - _LEFT
        parts.append(
            f'<rect class="shaded" x="{_LEFT}" y="{_TOP}" width="{width:.1f}" '
            f'height="{_HEIGHT - _BOTTOM - _TOP}"><title>warm-up, left out</title></rect>'
        )
    for value, text in y.ticks:
        at = y.place(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" '
            f'y2="{at:.1f}"/><text x="{_LEFT - 6}" y="{at + 4:.1f}" '
            f'text-anchor="end">{text}</text>'
        )
    for value, text in x.ticks:
        at = x.place(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
            f'text-anchor="middle">{text}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">{html.escape(x_name)}</text>'
    )
    parts.append(
        f'<text transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_name)}</text>'
    )
    parts += [_line(s, x.place, y.place) for s in series]
    parts.append("</svg>" + _legend(series) + "</figure>")
    return "".join(parts)


def _line(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    runs: list[list[str]] = [[]]
    marks = []
    for number, (a, b) in enumerate(series.points):
        if math.isnan(b):
            runs.append([])
            continue
        runs[-1].append(f"{x(a):.1f},{y(b):.1f}")
        if series.marked or len(series.points) == 1:
            text = series.labels[number] if series.labels else f"{a:.6g}: {b:.6g}"
            marks.append(
                f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" fill="{series.colour}">'
                f"<title>{html.escape(text)}</title></circle>"
            )
    lines = [
        f'<polyline points="{" ".join(run)}" fill="none" stroke="{series.colour}" '
        f'stroke-width="1.8"/>'
        for run in runs
        if series.joined and len(run) > 1
    ]
    return "".join([*lines, *marks])


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    entries = "".join(
        f'<span><i style="background:{s.colour}"></i>{html.escape(s.name)}</span>' for s in series
    )
    return f'<div class="legend">{entries}</div>'


class _Axis:
    """Maps values to pixels; `ticks` are values and their texts."""

    def __init__(self, values: Sequence[float], scale: Scale, first: float, last: float) -> None:
        self._scale = scale
        self._first, self._last = first, last
        low, high = min(values), max(values)
        if scale == "linear":
            self.ticks = _linear_ticks(min(low, 0.0), high)
            low, high = self.ticks[0][0], max(high, self.ticks[-1][0])
        elif scale == "log":
            positive = [v for v in values if v > 0] or [1.0]
            low, high = min(positive), max(positive)
            self.ticks = _log_ticks(low, high)
            low, high = min(low, self.ticks[0][0]), max(high, self.ticks[-1][0])
        else:
            self.ticks = [(p, f"{p:g}") for p in (0, 50, 90, 99, 99.9, 99.99, 99.999) if p <= high]
        self._low, self._high = self._warp(low), self._warp(high)

    def _warp(self, value: float) -> float:
        if self._scale == "log":
            return math.log10(max(value, 1e-9))
        if self._scale == "percentile":
            return -math.log10(max(1 - value / 100, 1e-7))
        return value

    def place(self, value: float) -> float:
        """The pixel of a value."""
        span = max(self._high - self._low, 1e-12)
        return self._first + (self._warp(value) - self._low) / span * (self._last - self._first)


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    count = math.ceil((high - low) / step - 1e-9)
    return [(low + i * step, f"{low + i * step:,.6g}") for i in range(count + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = (1,) if last - first > 3 else (1, 2, 5)
    values = [m * 10.0**e for e in range(first, last + 1) for m in marks]
    below = [v for v in values if v <= low][-1:]
    above = [v for v in values if v >= high][:1]
    inside = [v for v in values if low < v < high]
    return [(v, f"{v:,.6g}") for v in dict.fromkeys([*below, *inside, *above])]

"""Faces of USB connectors, in millimetres after the USB drawings, and their pose in the image.

Openings are slightly enlarged, so that they survive at 64 pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

CLASSES = ("background", "usb_a", "usb_b", "usb_c", "micro_b")


@dataclass(frozen=True, slots=True)
class Shape:
    """The face of one connector type: polygons [n, 2] in millimetres, x right, y down, centred.

    All polygons run clockwise on the screen.

    outline: convex.
    shell_thickness: millimetres.
    """

    outline: Points
    shell_thickness: float
    tongue: Points
    contacts: tuple[Points, ...]


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Corners [4, 2], clockwise on the screen."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def rounded(width: float, height: float, radius: float) -> Points:
    """A centred rectangle with round corners; a stadium when `radius` is half of `height`."""
    turn = np.linspace(0, np.pi / 2, 5)
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius
    x, y = width / 2 - radius, height / 2 - radius
    corners: list[Points] = []
    for quarter, centre in enumerate([(x, y), (-x, y), (-x, -y), (x, -y)]):
        cos, sin = np.cos(quarter * np.pi / 2), np.sin(quarter * np.pi / 2)
        corners.append(arc @ np.array([[cos, sin], [-sin, cos]]) + centre)
    points = np.concatenate(corners)
    # Neighbouring arcs share a point where the radius is half of a side; once keeps it convex.
    step = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    distinct: Points = points[step > 1e-9]
    return distinct


def _row(count: int, pitch: float, width: float, top: float, bottom: float) -> tuple[Points, ...]:
    """`count` equal contacts side by side, centred on x = 0."""
    centres = (np.arange(count) - (count - 1) / 2) * pitch
    return tuple(rectangle(x - width / 2, top, x + width / 2, bottom) for x in centres)


SHAPES: dict[str, Shape] = {
    "usb_a": Shape(
        outline=rounded(12.0, 5.0, 0.5),
        shell_thickness=0.5,
        tongue=rectangle(-5.3, -1.7, 5.3, 0.3),
        contacts=_row(4, pitch=2.5, width=1.3, top=-0.7, bottom=0.55),
    ),
    "usb_b": Shape(
        outline=np.array(
            [(-2.0, -3.9), (2.0, -3.9), (4.2, -1.9), (4.2, 3.9), (-4.2, 3.9), (-4.2, -1.9)],
            dtype=np.float64,
        ),
        shell_thickness=0.6,
        tongue=rectangle(-2.6, -1.4, 2.6, 2.0),
        contacts=_row(2, pitch=2.6, width=1.2, top=-2.0, bottom=-1.0)
        + _row(2, pitch=2.6, width=1.2, top=1.6, bottom=2.6),
    ),
    "usb_c": Shape(
        outline=rounded(8.9, 3.2, 1.6),
        shell_thickness=0.45,
        tongue=rounded(6.2, 0.9, 0.25),
        contacts=_row(8, pitch=0.7, width=0.35, top=-0.45, bottom=0.1),
    ),
    "micro_b": Shape(
        outline=np.array(
            [(-3.7, -1.5), (3.7, -1.5), (3.7, 0.0), (2.5, 1.5), (-2.5, 1.5), (-3.7, 0.0)],
            dtype=np.float64,
        ),
        shell_thickness=0.4,
        tongue=rectangle(-2.3, -0.75, 2.3, -0.1),
        contacts=_row(5, pitch=0.9, width=0.45, top=-0.3, bottom=0.15),
    ),
}


def scaled(outline: Points, margin: float) -> Points:
    """`outline` grown on each side by `margin` millimetres, shrunk where that is negative."""
    extent = outline.max(axis=0) - outline.min(axis=0)
    grown: Points = outline * (1 + 2 * margin / extent)
    return grown


def unit(angle: float) -> NDArray[np.float64]:
    """Vector [2] of length 1 at an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


@dataclass(frozen=True, slots=True)
class Pose:
    """Maps millimetres on the face to pixels of the image, whose top left corner is (0, 0).

    matrix: homography, [3, 3].
    depth: vector from the face to the back of the connector, [2], in pixels.
    """

    matrix: NDArray[np.float64]
    depth: NDArray[np.float64]

    def project(self, points: Points) -> Points:
        """Pixels [n, 2] of points [n, 2] in millimetres."""
        mapped = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        projected: Points = mapped[:, :2] / mapped[:, 2:]
        return projected

"""Connectors: placed at random, and drawn as their face extruded backwards."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sources.connectors.canvas import Canvas
from training.data.sources.connectors.colours import (
    GOLD,
    MOULDINGS,
    STEEL,
    TONGUES,
    Colour,
    choice,
    tinted,
)
from training.data.sources.connectors.shapes import (
    CLASSES,
    SHAPES,
    Points,
    Pose,
    Shape,
    scaled,
    unit,
)

MAX_CONNECTORS = 3


@dataclass(frozen=True, slots=True)
class Connector:
    """One placed connector.

    moulding: millimetres of plastic around the shell; 0 where there is none.
    steel: colour of the shell.
    body: colour of the plastic, or of the shell where there is none.
    """

    class_id: int
    shape: Shape
    pose: Pose
    moulding: float
    steel: Colour
    body: Colour

    def outline(self) -> Points:
        """Front outline in pixels, moulding included."""
        return self.pose.project(scaled(self.shape.outline, self.moulding))

    def silhouette(self) -> Points:
        """Convex polygon in pixels around the face and the sides."""
        front = self.outline()
        both = np.concatenate([front, front + self.pose.depth]).astype(np.float32)
        return cv2.convexHull(both)[:, 0].astype(np.float64)


def place(rng: np.random.Generator, size: int) -> list[Connector]:
    """One to three connectors, apart from each other and almost entirely inside the image."""
    count = int(rng.integers(1, MAX_CONNECTORS + 1))
    radius = size * (0.4, 0.27, 0.235)[count - 1]
    connectors: list[Connector] = []
    centres: list[NDArray[np.float64]] = []
    for _ in range(count):
        for _attempt in range(40):
            centre = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
            if all(np.hypot(*(centre - other)) > 1.8 * radius for other in centres):
                centres.append(centre)
                connectors.append(_pose_connector(rng, centre, radius * rng.uniform(0.85, 1.05)))
                break
    return connectors


def _pose_connector(
    rng: np.random.Generator, centre: NDArray[np.float64], radius: float
) -> Connector:
    """A connector of a random type and pose that lies within about `radius` of `centre`."""
    class_id = int(rng.integers(1, len(CLASSES)))
    shape = SHAPES[CLASSES[class_id]]
    moulding = float(rng.uniform(0.5, 1.1)) if rng.random() < 0.5 else 0.0
    reach = np.hypot(*np.abs(scaled(shape.outline, moulding)).max(axis=0))
    scale = radius / reach
    tilt, roll = rng.uniform(0, 2 * np.pi, 2)
    axis = unit(tilt)
    foreshortening = rng.uniform(0.78, 1.0)
    squeeze = np.eye(2) - (1 - foreshortening) * np.outer(axis, axis)
    cos, sin = np.cos(roll), np.sin(roll)
    linear = squeeze @ np.array([[cos, -sin], [sin, cos]]) * scale
    # The plane tilts about the line across `axis`, so what lies along the axis is farther away.
    vanishing = (1 - foreshortening) * 0.6 / radius * (axis @ linear)
    matrix = np.zeros((3, 3))
    matrix[2] = *vanishing, 1.0
    matrix[:2, :2] = linear + np.outer(centre, vanishing)
    matrix[:2, 2] = centre
    depth = axis * radius * (0.1 + 0.8 * (1 - foreshortening)) * rng.uniform(0.8, 1.3)
    steel = choice(rng, STEEL)
    body = choice(rng, MOULDINGS) if moulding else steel
    return Connector(class_id, shape, Pose(matrix, depth), moulding, steel, body)


def draw_connector(
    rng: np.random.Generator, canvas: Canvas, connector: Connector, light: NDArray[np.float64]
) -> None:
    """Draws shadow, sides, face and contacts, and labels the silhouette."""
    shape, pose = connector.shape, connector.pose
    silhouette = connector.silhouette()
    pixels_per_mm = float(np.sqrt(abs(np.linalg.det(pose.matrix[:2, :2]))))
    canvas.shade(silhouette, -light * rng.uniform(1.0, 3.5), rng.uniform(0.8, 2.2), 0.42)
    _draw_sides(canvas, connector, light)
    canvas.label(silhouette, connector.class_id)
    if connector.moulding:
        canvas.fill(connector.outline(), connector.body)
        draw_rim(canvas, connector.outline(), connector.body, light, 0.25 * pixels_per_mm)
    shell = pose.project(shape.outline)
    canvas.fill(shell, connector.steel)
    draw_rim(canvas, shell, connector.steel, light, 0.25 * pixels_per_mm)
    opening = pose.project(scaled(shape.outline, -shape.shell_thickness))
    canvas.fill(opening, (24, 24, 27))
    # Light falls through the opening on the wall that faces it, the far one.
    draw_rim(canvas, opening, (92, 93, 97), -light, 0.15 * pixels_per_mm)
    tongue = choice(rng, TONGUES)
    canvas.fill(pose.project(shape.tongue), tongue)
    contact_colour = tinted(GOLD, float(rng.uniform(0.85, 1.3)))
    for contact in shape.contacts:
        canvas.fill(pose.project(contact), contact_colour)


def draw_lead(rng: np.random.Generator, canvas: Canvas, connector: Connector) -> None:
    """Draws the cable of a plug, from under its back to beyond the border."""
    start = connector.pose.project(np.zeros((1, 2)))[0] + connector.pose.depth
    heading = connector.pose.depth / np.hypot(*connector.pose.depth)
    aside = unit(rng.uniform(0, 2 * np.pi))
    reach = canvas.size
    middle = start + heading * reach * 0.45
    end = middle + (heading * 0.6 + aside * 0.8) * reach
    width = reach * rng.uniform(0.045, 0.07)
    draw_cable(canvas, bezier(start, middle, end), connector.body, width)


def bezier(start: Points, middle: Points, end: Points) -> Points:
    """Quadratic Bézier curve of 17 points."""
    t = np.linspace(0, 1, 17)[:, np.newaxis]
    curve: Points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return curve


def draw_cable(canvas: Canvas, curve: Points, colour: Colour, width: float) -> None:
    """Draws a cable along a curve, shaded as round."""
    canvas.stroke(curve, tinted(colour, 0.6), width)
    canvas.stroke(curve, colour, width * 0.72)
    canvas.stroke(curve, tinted(colour, 1.5), width * 0.22)


def _draw_sides(canvas: Canvas, connector: Connector, light: NDArray[np.float64]) -> None:
    """Draws the extruded sides, lit by their slope; the face later covers those turned away."""
    front = connector.outline()
    back = front + connector.pose.depth
    towards = _lit_edges(front, light)
    for i, brightness in enumerate(towards):
        j = (i + 1) % len(front)
        side = np.array([front[i], front[j], back[j], back[i]])
        canvas.fill(side, tinted(connector.body, 0.58 + 0.32 * float(brightness)))


def draw_rim(
    canvas: Canvas, polygon: Points, colour: Colour, light: NDArray[np.float64], width: float
) -> None:
    """Traces the edges of `polygon`: bright where they face the light, dark where they do not."""
    for i, brightness in enumerate(_lit_edges(polygon, light)):
        edge = np.array([polygon[i], polygon[(i + 1) % len(polygon)]])
        tint = 1 + 1.6 * brightness if brightness > 0 else 1 + 0.45 * brightness
        canvas.stroke(edge, tinted(colour, float(tint)), width)


def _lit_edges(polygon: Points, light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of the angle between the outward normal of each edge and the light."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    cosines: NDArray[np.float64] = normals @ light / np.maximum(np.hypot(*edges.T), 1e-9)
    return cosines

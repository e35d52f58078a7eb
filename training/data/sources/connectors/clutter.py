"""Objects beside the connectors (coins, labels, cables) and in front of them (fingers, paper)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sources.connectors.canvas import SUBPIXEL_BITS, Canvas, fixed
from training.data.sources.connectors.colours import GOLD, MOULDINGS, SKIN, STEEL, choice, tinted
from training.data.sources.connectors.connector import bezier, draw_cable, draw_rim
from training.data.sources.connectors.shapes import CLASSES, Points, rectangle, rounded, unit

# Share of each class that stays visible beside an occluder: with less, a connector can be hard to
# tell; with more, occluders cover next to nothing.
MIN_VISIBLE_FRACTION = 0.65


def draw_clutter(rng: np.random.Generator, canvas: Canvas, light: NDArray[np.float64]) -> None:
    """Draws a coin, a label or a loose cable: background that looks like connectors."""
    size = canvas.size
    centre = rng.uniform(0, size, 2)
    kind = rng.integers(3)
    if kind == 0:
        colour = choice(rng, (*STEEL, GOLD, (184, 112, 74)))
        radius = size * rng.uniform(0.08, 0.16)
        disc = rounded(2 * radius, 2 * radius, radius) + centre
        canvas.shade(disc, -light * 1.5, 1.0, 0.4)
        canvas.fill(disc, colour)
        draw_rim(canvas, disc, colour, light, size * 0.015)
        canvas.stroke((disc - centre) * 0.6 + centre, tinted(colour, 0.8), size * 0.01, True)
    elif kind == 1:
        colour = choice(rng, ((236, 234, 226), (240, 214, 110), (142, 196, 218)))
        turn = unit(rng.uniform(0, 2 * np.pi))
        across = np.array([-turn[1], turn[0]])
        label = rectangle(-0.22, -0.15, 0.22, 0.15) * size @ np.stack([turn, across]) + centre
        canvas.shade(label, -light, 0.8, 0.3)
        canvas.fill(label, colour)
        for row in (-0.07, 0.0, 0.07):
            text = np.array([(-0.16, row), (rng.uniform(0, 0.16), row)]) * size
            ink = text @ np.stack([turn, across]) + centre
            canvas.stroke(ink, tinted(colour, 0.45), size * 0.012)
    else:
        colour = choice(rng, MOULDINGS)
        ends = rng.uniform(-0.2, 1.2, (3, 2)) * size
        draw_cable(canvas, bezier(*ends), colour, size * rng.uniform(0.03, 0.06))


def occlude(rng: np.random.Generator, canvas: Canvas, light: NDArray[np.float64]) -> None:
    """Lays a finger, a cable or a slip of paper over the scene where it hides little enough."""
    size = canvas.size
    kind = rng.integers(3)
    target = rng.uniform(0.15, 0.85, 2) * size
    heading = unit(rng.uniform(0, 2 * np.pi))
    across = np.array([-heading[1], heading[0]])
    axes = np.stack([heading, across])
    if kind == 0:
        width = size * rng.uniform(0.16, 0.24)
        shape = rounded(3 * size, width, width / 2) @ axes + target + heading * 1.5 * size
    elif kind == 1:
        width = size * rng.uniform(0.05, 0.09)
        bend = across * size * rng.uniform(-0.3, 0.3)
        curve = bezier(target - heading * 1.5 * size, target + bend, target + heading * 1.5 * size)
        normal = across * width / 2
        shape = np.concatenate([curve - normal, (curve + normal)[::-1]])
    else:
        far = target + heading * size * 0.5
        shape = rectangle(-size * 0.5, -size * 0.35, size * 0.5, size * 0.35) @ axes + far
    if not _clear_of_connectors(canvas, shape):
        return
    canvas.shade(shape, -light * rng.uniform(1.5, 3.0), rng.uniform(1.0, 2.5), 0.45)
    if kind == 0:
        _draw_finger(rng, canvas, shape, axes, target, width)
    elif kind == 1:
        colour = choice(rng, MOULDINGS)
        canvas.fill(shape, tinted(colour, 0.75))
        canvas.stroke(curve, colour, width * 0.6)
        canvas.stroke(curve, tinted(colour, 1.5), width * 0.2)
    else:
        canvas.fill(shape, choice(rng, ((238, 236, 230), (244, 220, 130), (206, 224, 232))))
    canvas.label(shape, 0)


def _draw_finger(
    rng: np.random.Generator,
    canvas: Canvas,
    shape: Points,
    axes: NDArray[np.float64],
    tip: Points,
    width: float,
) -> None:
    """Draws a finger: a capsule from its tip to beyond the border, shaded as round, with a nail."""
    skin = choice(rng, SKIN)
    centre = shape.mean(axis=0)
    for narrowing, tint in ((1.0, 0.78), (0.84, 0.9), (0.62, 1.0), (0.34, 1.12)):
        local = (shape - centre) @ axes.T
        local[:, 1] *= narrowing
        local[:, 0] += (1 - narrowing) * width / 2
        canvas.fill(local @ axes + centre, tinted(skin, tint))
    nail = rounded(width * 0.62, width * 0.5, width * 0.22) @ axes + tip + axes[0] * width * 0.45
    canvas.fill(nail, tinted(skin, 1.35))
    canvas.stroke(nail, tinted(skin, 0.85), width * 0.05, closed=True)


def _clear_of_connectors(canvas: Canvas, shape: Points) -> bool:
    """Whether every class keeps `MIN_VISIBLE_FRACTION` of its pixels with `shape` laid over it."""
    covered = canvas.mask.copy()
    cv2.fillPoly(covered, [fixed(shape)], 0, cv2.LINE_8, SUBPIXEL_BITS)
    before = np.bincount(canvas.mask.ravel(), minlength=len(CLASSES))[1:]
    after = np.bincount(covered.ravel(), minlength=len(CLASSES))[1:]
    return bool(np.all(after >= MIN_VISIBLE_FRACTION * before))

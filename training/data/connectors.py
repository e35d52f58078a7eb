"""Synthetic photographs of USB connectors with exact class masks, for segmentation.

A connector is modelled as its face, in millimetres after the USB drawings (slightly enlarged
openings, so that they survive at 64 pixels), extruded backwards. Image and mask are drawn from the
same polygons on a canvas of `SUPERSAMPLING` times the size: the image is that canvas averaged over
each pixel, the mask its value at the centre of each pixel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.surfaces import random_surface

CLASSES = ("background", "usb_a", "usb_b", "usb_c", "micro_b")

SUPERSAMPLING = 3
"""Odd, so that one sample of the canvas is the centre of each pixel."""

MAX_CONNECTORS = 3

MIN_VISIBLE_FRACTION = 0.65
"""What no occluder may hide more of: less than this of a connector can be hard to tell."""

SUBPIXEL_BITS = 4

Points = NDArray[np.float64]
Colour = tuple[float, float, float]

GOLD: Colour = (214, 172, 86)
STEEL: tuple[Colour, ...] = (
    (186, 189, 194),
    (164, 168, 174),
    (204, 205, 206),
    (142, 146, 152),
    (196, 186, 166),
)
TONGUES: tuple[Colour, ...] = (
    (38, 38, 42),
    (232, 232, 228),
    (44, 104, 190),
    (214, 104, 48),
    (24, 138, 138),
)
MOULDINGS: tuple[Colour, ...] = (
    (34, 34, 38),
    (226, 226, 224),
    (92, 96, 102),
    (180, 60, 56),
    (60, 92, 140),
)
SKIN: tuple[Colour, ...] = (
    (238, 198, 172),
    (214, 164, 130),
    (170, 118, 86),
    (112, 74, 54),
)


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def _rounded(width: float, height: float, radius: float) -> Points:
    """A centred rectangle with round corners; a stadium when `radius` is half of `height`."""
    turn = np.linspace(0, np.pi / 2, 5)
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius
    x, y = width / 2 - radius, height / 2 - radius
    corners: list[Points] = []
    for quarter, centre in enumerate([(x, y), (-x, y), (-x, -y), (x, -y)]):
        cos, sin = np.cos(quarter * np.pi / 2), np.sin(quarter * np.pi / 2)
        corners.append(arc @ np.array([[cos, sin], [-sin, cos]]) + centre)
    points = np.concatenate(corners)
    # Where the radius is half of a side, neighbouring arcs share a point; convexity wants it once.
    step = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    distinct: Points = points[step > 1e-9]
    return distinct


@dataclass(frozen=True, slots=True)
class Shape:
    """The face of one connector type: polygons [n, 2] in millimetres, x right, y down, centred.

    `outline` is convex and runs clockwise on the screen, as all polygons here do.
    """

    outline: Points
    shell_thickness: float
    tongue: Points
    contacts: tuple[Points, ...]


def _row(count: int, pitch: float, width: float, top: float, bottom: float) -> tuple[Points, ...]:
    """`count` equal contacts side by side, centred on x = 0."""
    centres = (np.arange(count) - (count - 1) / 2) * pitch
    return tuple(_rectangle(x - width / 2, top, x + width / 2, bottom) for x in centres)


SHAPES: dict[str, Shape] = {
    "usb_a": Shape(
        outline=_rounded(12.0, 5.0, 0.5),
        shell_thickness=0.5,
        tongue=_rectangle(-5.3, -1.7, 5.3, 0.3),
        contacts=_row(4, pitch=2.5, width=1.3, top=-0.7, bottom=0.55),
    ),
    "usb_b": Shape(
        outline=np.array(
            [(-2.0, -3.9), (2.0, -3.9), (4.2, -1.9), (4.2, 3.9), (-4.2, 3.9), (-4.2, -1.9)],
            dtype=np.float64,
        ),
        shell_thickness=0.6,
        tongue=_rectangle(-2.6, -1.4, 2.6, 2.0),
        contacts=_row(2, pitch=2.6, width=1.2, top=-2.0, bottom=-1.0)
        + _row(2, pitch=2.6, width=1.2, top=1.6, bottom=2.6),
    ),
    "usb_c": Shape(
        outline=_rounded(8.9, 3.2, 1.6),
        shell_thickness=0.45,
        tongue=_rounded(6.2, 0.9, 0.25),
        contacts=_row(8, pitch=0.7, width=0.35, top=-0.45, bottom=0.1),
    ),
    "micro_b": Shape(
        outline=np.array(
            [(-3.7, -1.5), (3.7, -1.5), (3.7, 0.0), (2.5, 1.5), (-2.5, 1.5), (-3.7, 0.0)],
            dtype=np.float64,
        ),
        shell_thickness=0.4,
        tongue=_rectangle(-2.3, -0.75, 2.3, -0.1),
        contacts=_row(5, pitch=0.9, width=0.45, top=-0.3, bottom=0.15),
    ),
}


def _scaled(outline: Points, margin: float) -> Points:
    """`outline` grown on each side by `margin` millimetres, shrunk where that is negative."""
    extent = outline.max(axis=0) - outline.min(axis=0)
    grown: Points = outline * (1 + 2 * margin / extent)
    return grown


@dataclass(frozen=True, slots=True)
class Pose:
    """Maps millimetres on the face to pixels of the image, the top left corner being (0, 0).

    `matrix` is a 3×3 homography; `depth` is where the back of the connector lies from its face, in
    pixels.
    """

    matrix: NDArray[np.float64]
    depth: NDArray[np.float64]

    def project(self, points: Points) -> Points:
        mapped = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        projected: Points = mapped[:, :2] / mapped[:, 2:]
        return projected


@dataclass(frozen=True, slots=True)
class Connector:
    """One placed connector.

    `moulding` is the plastic around the shell in millimetres, or 0, and `body` the colour of that
    plastic, or of the shell where there is none.
    """

    class_id: int
    shape: Shape
    pose: Pose
    moulding: float
    steel: Colour
    body: Colour

    def outline(self) -> Points:
        """Front outline in pixels, moulding included."""
        return self.pose.project(_scaled(self.shape.outline, self.moulding))

    def silhouette(self) -> Points:
        """Convex polygon in pixels of all that belongs to the connector: its face and its sides."""
        front = self.outline()
        both = np.concatenate([front, front + self.pose.depth]).astype(np.float32)
        return cv2.convexHull(both)[:, 0].astype(np.float64)


class Canvas:
    """A supersampled image with its mask; coordinates are pixels of the final image.

    `image` is uint8 [S, S, 3] RGB and `mask` uint8 [S, S], S being `SUPERSAMPLING` × `size`.
    """

    def __init__(self, surface: NDArray[np.uint8]) -> None:
        self.size = surface.shape[0]
        side = self.size * SUPERSAMPLING
        enlarged = cv2.resize(surface, (side, side), interpolation=cv2.INTER_LINEAR)
        self.image = np.asarray(enlarged, dtype=np.uint8)
        self.mask = np.zeros((side, side), dtype=np.uint8)

    def fill(self, polygon: Points, colour: Colour) -> None:
        cv2.fillPoly(self.image, [_fixed(polygon)], colour, cv2.LINE_8, SUBPIXEL_BITS)

    def label(self, polygon: Points, class_id: int) -> None:
        cv2.fillPoly(self.mask, [_fixed(polygon)], class_id, cv2.LINE_8, SUBPIXEL_BITS)

    def stroke(self, line: Points, colour: Colour, width: float, closed: bool = False) -> None:
        thickness = max(1, round(width * SUPERSAMPLING))
        cv2.polylines(
            self.image, [_fixed(line)], closed, colour, thickness, cv2.LINE_8, SUBPIXEL_BITS
        )

    def shade(self, polygon: Points, offset: Points, softness: float, strength: float) -> None:
        """Darkens the image where `polygon`, moved by `offset` pixels, casts its shadow."""
        light = np.full((self.size, self.size), 255, dtype=np.uint8)
        shadow = np.rint((polygon + offset) * 16).astype(np.int32)
        cv2.fillPoly(light, [shadow], 255 * (1 - strength), cv2.LINE_8, SUBPIXEL_BITS)
        light = cv2.GaussianBlur(light, (0, 0), softness).astype(np.uint8)
        side = self.mask.shape[0]
        light = cv2.resize(light, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        cv2.multiply(self.image, cv2.merge([light, light, light]), self.image, 1 / 255)

    def downsample(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        size = (self.size, self.size)
        image = np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA), np.uint8)
        centre = SUPERSAMPLING // 2
        return image, self.mask[centre::SUPERSAMPLING, centre::SUPERSAMPLING].copy()


def _fixed(points: Points) -> NDArray[np.int32]:
    """Pixels of the final image to OpenCV's fixed-point samples, whose centres are integers."""
    samples = points * SUPERSAMPLING - 0.5
    return np.rint(samples * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _tinted(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor below 1) or moved towards white (above)."""
    if factor <= 1:
        red, green, blue = (channel * factor for channel in colour)
    else:
        red, green, blue = (255 - (255 - channel) / factor for channel in colour)
    return red, green, blue


def _choice(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    base = colours[int(rng.integers(len(colours)))]
    return _tinted(base, float(rng.uniform(0.88, 1.12)))


def render(seed: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image uint8 [size, size, 3], RGB, and its mask uint8 [size, size] of `CLASSES` ids.

    One to three connectors lie in any pose on a random surface, under uneven light, sometimes
    partly behind a cable, a finger or a slip of paper, and seen through a camera with blur, noise
    and JPEG artefacts. What covers a connector is background in the mask. The same arguments give
    the same arrays. ValueError when `size` is below 32, where contacts vanish.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32, got {size}")
    rng = np.random.default_rng(seed)
    surface = np.clip(random_surface(rng, size), 0, 255).astype(np.uint8)
    canvas = Canvas(surface)
    light = _unit(rng.uniform(0, 2 * np.pi))
    connectors = _place(rng, size)
    if rng.random() < 0.5:
        _draw_clutter(rng, canvas, light)
    # All leads before all connectors: a cable lies under what is labelled, never on it.
    for connector in connectors:
        if connector.moulding:
            _draw_lead(rng, canvas, connector)
    for connector in connectors:
        _draw_connector(rng, canvas, connector, light)
    if rng.random() < 0.45:
        _occlude(rng, canvas, light)
    image, mask = canvas.downsample()
    return _photograph(rng, image, mask, light), mask


def render_many(seeds: Iterable[int], size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`render` of every seed: images uint8 [N, size, size, 3] and masks uint8 [N, size, size]."""
    images, masks = zip(*(render(seed, size) for seed in seeds), strict=True)
    return np.stack(images), np.stack(masks)


def _unit(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


def _place(rng: np.random.Generator, size: int) -> list[Connector]:
    """One to three connectors, apart from each other and inside the image but for a little."""
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
    reach = np.hypot(*np.abs(_scaled(shape.outline, moulding)).max(axis=0))
    scale = radius / reach
    tilt, roll = rng.uniform(0, 2 * np.pi, 2)
    axis = _unit(tilt)
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
    steel = _choice(rng, STEEL)
    body = _choice(rng, MOULDINGS) if moulding else steel
    return Connector(class_id, shape, Pose(matrix, depth), moulding, steel, body)


def _draw_connector(
    rng: np.random.Generator, canvas: Canvas, connector: Connector, light: NDArray[np.float64]
) -> None:
    shape, pose = connector.shape, connector.pose
    silhouette = connector.silhouette()
    pixels_per_mm = float(np.sqrt(abs(np.linalg.det(pose.matrix[:2, :2]))))
    canvas.shade(silhouette, -light * rng.uniform(1.0, 3.5), rng.uniform(0.8, 2.2), 0.42)
    _draw_sides(canvas, connector, light)
    canvas.label(silhouette, connector.class_id)
    if connector.moulding:
        canvas.fill(connector.outline(), connector.body)
        _draw_rim(canvas, connector.outline(), connector.body, light, 0.25 * pixels_per_mm)
    shell = pose.project(shape.outline)
    canvas.fill(shell, connector.steel)
    _draw_rim(canvas, shell, connector.steel, light, 0.25 * pixels_per_mm)
    opening = pose.project(_scaled(shape.outline, -shape.shell_thickness))
    canvas.fill(opening, (24, 24, 27))
    # Light falls through the opening on the wall that faces it, the far one.
    _draw_rim(canvas, opening, (92, 93, 97), -light, 0.15 * pixels_per_mm)
    tongue = _choice(rng, TONGUES)
    canvas.fill(pose.project(shape.tongue), tongue)
    contact_colour = _tinted(GOLD, float(rng.uniform(0.85, 1.3)))
    for contact in shape.contacts:
        canvas.fill(pose.project(contact), contact_colour)


def _draw_lead(rng: np.random.Generator, canvas: Canvas, connector: Connector) -> None:
    """The cable behind a plug, from under its back to beyond the border."""
    start = connector.pose.project(np.zeros((1, 2)))[0] + connector.pose.depth
    heading = connector.pose.depth / np.hypot(*connector.pose.depth)
    aside = _unit(rng.uniform(0, 2 * np.pi))
    reach = canvas.size
    middle = start + heading * reach * 0.45
    end = middle + (heading * 0.6 + aside * 0.8) * reach
    width = reach * rng.uniform(0.045, 0.07)
    _draw_cable(canvas, _curve(start, middle, end), connector.body, width)


def _curve(start: Points, middle: Points, end: Points) -> Points:
    """Quadratic Bézier curve of 17 points."""
    t = np.linspace(0, 1, 17)[:, np.newaxis]
    curve: Points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return curve


def _draw_cable(canvas: Canvas, curve: Points, colour: Colour, width: float) -> None:
    canvas.stroke(curve, _tinted(colour, 0.6), width)
    canvas.stroke(curve, colour, width * 0.72)
    canvas.stroke(curve, _tinted(colour, 1.5), width * 0.22)


def _draw_sides(canvas: Canvas, connector: Connector, light: NDArray[np.float64]) -> None:
    """The extruded sides, each lit by its own slope; the face later covers those turned away."""
    front = connector.outline()
    back = front + connector.pose.depth
    towards = _lit_edges(front, light)
    for i, brightness in enumerate(towards):
        j = (i + 1) % len(front)
        side = np.array([front[i], front[j], back[j], back[i]])
        canvas.fill(side, _tinted(connector.body, 0.58 + 0.32 * float(brightness)))


def _draw_rim(
    canvas: Canvas, polygon: Points, colour: Colour, light: NDArray[np.float64], width: float
) -> None:
    """Traces the edges of `polygon`: bright where they face the light, dark where they do not."""
    for i, brightness in enumerate(_lit_edges(polygon, light)):
        edge = np.array([polygon[i], polygon[(i + 1) % len(polygon)]])
        tint = 1 + 1.6 * brightness if brightness > 0 else 1 + 0.45 * brightness
        canvas.stroke(edge, _tinted(colour, float(tint)), width)


def _lit_edges(polygon: Points, light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of the angle between the outward normal of each edge and the light."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    cosines: NDArray[np.float64] = normals @ light / np.maximum(np.hypot(*edges.T), 1e-9)
    return cosines


def _draw_clutter(rng: np.random.Generator, canvas: Canvas, light: NDArray[np.float64]) -> None:
    """A coin, a label or a loose cable among the connectors: background of a similar look."""
    size = canvas.size
    centre = rng.uniform(0, size, 2)
    kind = rng.integers(3)
    if kind == 0:
        colour = _choice(rng, (*STEEL, GOLD, (184, 112, 74)))
        radius = size * rng.uniform(0.08, 0.16)
        disc = _rounded(2 * radius, 2 * radius, radius) + centre
        canvas.shade(disc, -light * 1.5, 1.0, 0.4)
        canvas.fill(disc, colour)
        _draw_rim(canvas, disc, colour, light, size * 0.015)
        canvas.stroke((disc - centre) * 0.6 + centre, _tinted(colour, 0.8), size * 0.01, True)
    elif kind == 1:
        colour = _choice(rng, ((236, 234, 226), (240, 214, 110), (142, 196, 218)))
        turn = _unit(rng.uniform(0, 2 * np.pi))
        across = np.array([-turn[1], turn[0]])
        label = _rectangle(-0.22, -0.15, 0.22, 0.15) * size @ np.stack([turn, across]) + centre
        canvas.shade(label, -light, 0.8, 0.3)
        canvas.fill(label, colour)
        for row in (-0.07, 0.0, 0.07):
            text = np.array([(-0.16, row), (rng.uniform(0, 0.16), row)]) * size
            ink = text @ np.stack([turn, across]) + centre
            canvas.stroke(ink, _tinted(colour, 0.45), size * 0.012)
    else:
        colour = _choice(rng, MOULDINGS)
        ends = rng.uniform(-0.2, 1.2, (3, 2)) * size
        _draw_cable(canvas, _curve(*ends), colour, size * rng.uniform(0.03, 0.06))


def _occlude(rng: np.random.Generator, canvas: Canvas, light: NDArray[np.float64]) -> None:
    """Lays a finger, a cable or a slip of paper over the scene where it hides little enough."""
    size = canvas.size
    kind = rng.integers(3)
    target = rng.uniform(0.15, 0.85, 2) * size
    heading = _unit(rng.uniform(0, 2 * np.pi))
    across = np.array([-heading[1], heading[0]])
    axes = np.stack([heading, across])
    if kind == 0:
        width = size * rng.uniform(0.16, 0.24)
        shape = _rounded(3 * size, width, width / 2) @ axes + target + heading * 1.5 * size
    elif kind == 1:
        width = size * rng.uniform(0.05, 0.09)
        bend = across * size * rng.uniform(-0.3, 0.3)
        curve = _curve(target - heading * 1.5 * size, target + bend, target + heading * 1.5 * size)
        normal = across * width / 2
        shape = np.concatenate([curve - normal, (curve + normal)[::-1]])
    else:
        far = target + heading * size * 0.5
        shape = _rectangle(-size * 0.5, -size * 0.35, size * 0.5, size * 0.35) @ axes + far
    if not _clear_of_connectors(canvas, shape):
        return
    canvas.shade(shape, -light * rng.uniform(1.5, 3.0), rng.uniform(1.0, 2.5), 0.45)
    if kind == 0:
        _draw_finger(rng, canvas, shape, axes, target, width)
    elif kind == 1:
        colour = _choice(rng, MOULDINGS)
        canvas.fill(shape, _tinted(colour, 0.75))
        canvas.stroke(curve, colour, width * 0.6)
        canvas.stroke(curve, _tinted(colour, 1.5), width * 0.2)
    else:
        canvas.fill(shape, _choice(rng, ((238, 236, 230), (244, 220, 130), (206, 224, 232))))
    canvas.label(shape, 0)


def _draw_finger(
    rng: np.random.Generator,
    canvas: Canvas,
    shape: Points,
    axes: NDArray[np.float64],
    tip: Points,
    width: float,
) -> None:
    """A capsule from its tip to beyond the border, round in its shading, with a nail."""
    skin = _choice(rng, SKIN)
    centre = shape.mean(axis=0)
    for narrowing, tint in ((1.0, 0.78), (0.84, 0.9), (0.62, 1.0), (0.34, 1.12)):
        local = (shape - centre) @ axes.T
        local[:, 1] *= narrowing
        local[:, 0] += (1 - narrowing) * width / 2
        canvas.fill(local @ axes + centre, _tinted(skin, tint))
    nail = _rounded(width * 0.62, width * 0.5, width * 0.22) @ axes + tip + axes[0] * width * 0.45
    canvas.fill(nail, _tinted(skin, 1.35))
    canvas.stroke(nail, _tinted(skin, 0.85), width * 0.05, closed=True)


def _clear_of_connectors(canvas: Canvas, shape: Points) -> bool:
    """Whether every class keeps `MIN_VISIBLE_FRACTION` of its pixels with `shape` laid over it."""
    covered = canvas.mask.copy()
    cv2.fillPoly(covered, [_fixed(shape)], 0, cv2.LINE_8, SUBPIXEL_BITS)
    before = np.bincount(canvas.mask.ravel(), minlength=len(CLASSES))[1:]
    after = np.bincount(covered.ravel(), minlength=len(CLASSES))[1:]
    return bool(np.all(after >= MIN_VISIBLE_FRACTION * before))


def _photograph(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    light: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Uneven light and a gleam on the scene, then blur, sensor noise and JPEG of the camera."""
    size = len(image)
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y = steps[np.newaxis, :], steps[:, np.newaxis]
    slope = rng.uniform(0.1, 0.5)
    gain = x * np.float32(light[0] * slope) + y * np.float32(light[1] * slope)
    gain += np.float32(rng.uniform(0.8, 1.12))
    gain -= (x * x + y * y) * np.float32(rng.uniform(0, 0.35))
    tint = rng.uniform(0.93, 1.07, 3).astype(np.float32)
    scene = image * (gain[:, :, np.newaxis] * tint)
    if rng.random() < 0.7:
        scene += _gleam(rng, mask, x, y)[:, :, np.newaxis]
    sigma = rng.uniform(0, 0.7)
    if sigma > 0.25:
        scene = cv2.GaussianBlur(scene, (0, 0), sigma).astype(np.float32)
    scene += rng.standard_normal(scene.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    photo = np.clip(scene, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(55, 96))
        _, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
        photo = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return photo


def _gleam(
    rng: np.random.Generator,
    mask: NDArray[np.uint8],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
) -> NDArray[np.float32]:
    """A specular streak across the connectors, float32 [size, size] to be added, 0 elsewhere."""
    direction = _unit(rng.uniform(0, np.pi))
    along = x * np.float32(direction[0]) + y * np.float32(direction[1])
    distance = (along - np.float32(rng.uniform(-0.3, 0.3))) / np.float32(rng.uniform(0.03, 0.08))
    streak = np.exp(-0.5 * distance * distance) * np.float32(rng.uniform(30, 80))
    return np.asarray(streak * (mask > 0), dtype=np.float32)

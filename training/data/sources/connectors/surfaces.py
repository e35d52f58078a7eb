"""Procedural surfaces to draw objects on: wood, metal, fabric, plastic, stone, circuit board.

Every function takes a generator and a size in pixels and returns float32 [size, size, 3], RGB,
about 0..255 and not clipped.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Surface = NDArray[np.float32]


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Smooth noise [size, size], mean 0 and deviation about 1, with `rows` × `columns` features."""
    coarse = rng.standard_normal((max(rows, 2), max(columns, 2)), dtype=np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, dtype=np.float32)


def _axes(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates 0..1 along and across a random direction, each [size, size]."""
    steps = np.linspace(0, 1, size, dtype=np.float32)
    angle = _between(rng, 0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = steps[np.newaxis, :], steps[:, np.newaxis]
    return x * cos + y * sin, y * cos - x * sin


def _blend(low: tuple[int, ...], high: tuple[int, ...], weight: NDArray[np.float32]) -> Surface:
    """Colour `low` where `weight` [size, size] is 0 and `high` where it is 1."""
    start = np.asarray(low, dtype=np.float32)
    span = np.asarray(high, dtype=np.float32) - start
    return start + weight[:, :, np.newaxis] * span


def _pick(
    rng: np.random.Generator, pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return pairs[int(rng.integers(len(pairs)))]


def wood(rng: np.random.Generator, size: int) -> Surface:
    """Rings seen along the grain, wavy, with fine fibres."""
    along, across = _axes(rng, size)
    waviness = _noise(rng, size, 3, 3) * np.float32(0.05)
    rings = _between(rng, 4, 9)
    phase = (across + waviness + along * np.float32(0.08)) * np.float32(2 * np.pi * rings)
    grain = 0.5 + 0.28 * np.sin(phase) + 0.14 * np.sin(phase * np.float32(3.7))
    weight = grain + _noise(rng, size, size // 2, size // 2) * np.float32(0.06)
    low, high = _pick(
        rng,
        (
            ((122, 78, 44), (178, 126, 78)),
            ((168, 122, 78), (214, 172, 122)),
            ((70, 44, 30), (112, 74, 50)),
            ((186, 156, 118), (222, 198, 162)),
        ),
    )
    return _blend(low, high, weight)


def metal(rng: np.random.Generator, size: int) -> Surface:
    """Brushed sheet: streaks along one axis over a broad sheen."""
    streaks = _noise(rng, size, size, 3) * np.float32(0.14)
    if rng.random() < 0.5:
        streaks = streaks.T
    along, _ = _axes(rng, size)
    sheen = 0.5 + 0.3 * np.sin(along * np.float32(_between(rng, 2, 5)) + _between(rng, 0, 6))
    low, high = _pick(rng, (((112, 118, 126), (188, 194, 200)), ((70, 74, 82), (128, 132, 140))))
    return _blend(low, high, sheen + streaks)


def fabric(rng: np.random.Generator, size: int) -> Surface:
    """Plain weave: warp and weft threads in alternation."""
    along, across = _axes(rng, size)
    threads = np.float32(np.pi * _between(rng, size / 7, size / 4))
    weave = np.sin(along * threads) * np.sin(across * threads)
    folds = _noise(rng, size, 3, 3) * np.float32(0.16)
    low, high = _pick(
        rng,
        (
            ((52, 66, 96), (96, 112, 146)),
            ((128, 60, 58), (178, 104, 96)),
            ((148, 142, 128), (202, 196, 182)),
            ((54, 84, 76), (98, 132, 118)),
            ((60, 56, 64), (98, 94, 102)),
        ),
    )
    return _blend(low, high, 0.5 + 0.3 * weave + folds)


def plastic(rng: np.random.Generator, size: int) -> Surface:
    """Smooth coloured sheet with a broad gradient and a faint grain."""
    along, _ = _axes(rng, size)
    grain = _noise(rng, size, size, size) * np.float32(_between(rng, 0.01, 0.05))
    low, high = _pick(
        rng,
        (
            ((196, 200, 204), (238, 240, 242)),
            ((30, 32, 36), (66, 68, 74)),
            ((58, 118, 152), (112, 172, 204)),
            ((206, 160, 74), (240, 204, 126)),
            ((150, 178, 140), (194, 216, 180)),
            ((196, 116, 98), (232, 160, 140)),
        ),
    )
    return _blend(low, high, 0.2 + 0.7 * along + grain)


def stone(rng: np.random.Generator, size: int) -> Surface:
    """Speckled stone: noise of three scales."""
    weight = (
        0.5
        + _noise(rng, size, 4, 4) * np.float32(0.12)
        + _noise(rng, size, size // 6, size // 6) * np.float32(0.12)
        + _noise(rng, size, size // 2, size // 2) * np.float32(0.12)
    )
    low, high = _pick(
        rng,
        (
            ((96, 98, 102), (176, 176, 174)),
            ((168, 160, 148), (226, 220, 210)),
            ((48, 54, 62), (108, 112, 118)),
        ),
    )
    return _blend(low, high, weight)


def circuit_board(rng: np.random.Generator, size: int) -> Surface:
    """Solder mask with traces that turn by 45 degrees and end in round pads."""
    green = _pick(
        rng,
        (
            ((22, 84, 58), (64, 134, 96)),
            ((24, 52, 104), (70, 104, 158)),
            ((34, 34, 40), (84, 84, 92)),
        ),
    )
    traces = np.zeros((size, size), dtype=np.uint8)
    for _ in range(int(rng.integers(4, 9))):
        start = rng.integers(0, size, 2)
        steps = rng.integers(-size // 2, size // 2, 2)
        bend = (start[0] + steps[0], start[1])
        end = (bend[0] + steps[1], bend[1] + abs(steps[1]))
        corners = np.array([start, bend, end], dtype=np.int32)
        cv2.polylines(traces, [corners], False, 150, 1, cv2.LINE_AA)
        cv2.circle(traces, (int(end[0]), int(end[1])), max(1, size // 40), 255, -1, cv2.LINE_AA)
    weight = traces.astype(np.float32) / 255 + _noise(rng, size, 4, 4) * np.float32(0.08)
    return _blend(*green, weight)


SURFACES: tuple[Callable[[np.random.Generator, int], Surface], ...] = (
    wood,
    metal,
    fabric,
    plastic,
    stone,
    circuit_board,
)


def random_surface(rng: np.random.Generator, size: int) -> Surface:
    """One of `SURFACES`, each as likely as the others."""
    return SURFACES[int(rng.integers(len(SURFACES)))](rng, size)

"""Colours of the rendered objects, RGB from 0 to 255."""

import numpy as np

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


def tinted(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor below 1) or moved towards white (above)."""
    if factor <= 1:
        red, green, blue = (channel * factor for channel in colour)
    else:
        red, green, blue = (255 - (255 - channel) / factor for channel in colour)
    return red, green, blue


def choice(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of `colours` at random, a little darker or lighter."""
    base = colours[int(rng.integers(len(colours)))]
    return tinted(base, float(rng.uniform(0.88, 1.12)))

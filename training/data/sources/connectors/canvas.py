"""The supersampled image and its mask, on which every object is drawn.

Both are drawn from the same polygons: the final image is the canvas averaged over each pixel, the
mask its value at the centre of each pixel.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sources.connectors.colours import Colour
from training.data.sources.connectors.shapes import Points

# Samples of the canvas along each axis of a pixel. Odd, so that one of them is the pixel's centre;
# more give smoother edges and take time with their square.
SUPERSAMPLING = 3
# Bits of the fraction in OpenCV's fixed-point coordinates.
SUBPIXEL_BITS = 4


class Canvas:
    """A supersampled image with its mask; coordinates are pixels of the final image.

    image: uint8 [S, S, 3], RGB, S being `SUPERSAMPLING` × `size`.
    mask: uint8 [S, S], class of each sample.
    """

    def __init__(self, surface: NDArray[np.uint8]) -> None:
        self.size = surface.shape[0]
        side = self.size * SUPERSAMPLING
        enlarged = cv2.resize(surface, (side, side), interpolation=cv2.INTER_LINEAR)
        self.image = np.asarray(enlarged, dtype=np.uint8)
        self.mask = np.zeros((side, side), dtype=np.uint8)

    def fill(self, polygon: Points, colour: Colour) -> None:
        """Fills a polygon in the image."""
        cv2.fillPoly(self.image, [fixed(polygon)], colour, cv2.LINE_8, SUBPIXEL_BITS)

    def label(self, polygon: Points, class_id: int) -> None:
        """Fills a polygon in the mask."""
        cv2.fillPoly(self.mask, [fixed(polygon)], class_id, cv2.LINE_8, SUBPIXEL_BITS)

    def stroke(self, line: Points, colour: Colour, width: float, closed: bool = False) -> None:
        """Draws a line of `width` pixels in the image."""
        thickness = max(1, round(width * SUPERSAMPLING))
        cv2.polylines(
            self.image, [fixed(line)], closed, colour, thickness, cv2.LINE_8, SUBPIXEL_BITS
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
        """The final image uint8 [size, size, 3] and its mask uint8 [size, size]."""
        size = (self.size, self.size)
        image = np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA), np.uint8)
        centre = SUPERSAMPLING // 2
        return image, self.mask[centre::SUPERSAMPLING, centre::SUPERSAMPLING].copy()


def fixed(points: Points) -> NDArray[np.int32]:
    """Fixed-point samples of OpenCV, whose centres are integers, for pixels of the final image."""
    samples = points * SUPERSAMPLING - 0.5
    return np.rint(samples * (1 << SUBPIXEL_BITS)).astype(np.int32)

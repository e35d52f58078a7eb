"""The memory and the time that decoding a file takes, told by its header before either is spent.

Bytes a pixel at the highest point, of 9 megapixels, measured and reckoned here (Pillow 13.0,
simplejpeg 1.9, numpy 2.4; benchmarks/serving/decode_memory.py prints all kinds):

    JPEG                              3.0   3.1    PNG RGB, RGBA, grey and alpha  7.3   8.0 to 8.7
    JPEG reduced to 224               0.2   0.3    PNG palette, 1 bit             4.3   4.7
    JPEG progressive 4:2:0, 4:4:4     6, 9  6, 9   PNG 16 bits grey               5.3   6.0
    JPEG progressive reduced to 224   3.2   3.3    PNG interlaced, turned         8.2   8.4
    JPEG turned by EXIF, CMYK         7.5   7.8    WebP, also animated            17.1  21.4
    JPEG CMYK progressive             12.2  12.3   BMP                            7.5   10.6
"""

from typing import NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile

from serving.base.errors import InvalidInput
from serving.base.memory import LARGE
from serving.images.jpeg import Frame

# Pixels that are converted at a time. More need more memory, fewer cost more calls; at 2**18 the
# conversion of a large image is as fast as in one piece, and its memory stays in the cache.
BAND_PIXELS = 1 << 18

# Bytes of a pixel in one band on its way to the result, and in Pillow's image by its mode.
_BAND = 20
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
_STORED_OTHERWISE = 4
# Bytes of a pixel that a decoder has besides: libwebp the canvas twice and the copy that Pillow
# reads; Pillow's reader of BMP run lengths the unpacked bytes twice.
_WEBP = 13
_BMP_RLE = 2
# Bytes that Pillow has for each row of an image and of its copy: a pointer, and alignment.
_ROW = 24
# libjpeg's rows in work, bytes for each pixel of the width; and what every decode takes.
_JPEG_COLUMN = 256
_FIXED = 1 << 18

# Scans of a JPEG, at most. Progressive files of common encoders have 10, with optimised scripts
# some 20; libjpeg goes over the whole image with each.
_MOST_SCANS = 64
# Pixels times scans of a JPEG, at most, and those above which it takes turns as large work does. An
# empty scan takes 0.1 ns a pixel, one of noise 3 to 8. Larger lets a file hold a thread longer,
# smaller refuses large progressive photographs, or has them wait for each other.
_MOST_SCANNED = 500_000_000
_QUICKLY_SCANNED = 30_000_000
# Bytes and pixels of a BMP with run lengths, at most. Pillow unpacks them in Python: 0.3 us a byte,
# 0.05 us a pixel.
_MOST_RLE_BYTES = 1 << 20
_MOST_RLE_PIXELS = 4_000_000


class Plan(NamedTuple):
    """A decode that is about to begin.

    height, width: pixels that it gives; they may be fewer than the file has.
    channels: bytes of each of them.
    peak: bytes that it takes at most, the pixels included.
    """

    height: int
    width: int
    channels: int
    peak: int

    @property
    def kept(self) -> int:
        """Bytes of the pixels that it gives."""
        return self.height * self.width * self.channels


def of_jpeg(frame: Frame, height: int, width: int, channels: int) -> Plan:
    """Decoding a JPEG to height x width by libjpeg-turbo, straight to the result."""
    return Plan(height, width, channels, height * width * channels + _of_libjpeg(frame))


def of_other_decoder(frame: Frame) -> Plan:
    """Decoding a JPEG in full to RGB on a device: its copy in host memory, and a contiguous
    one."""
    pixels = frame.height * frame.width * 3
    return Plan(frame.height, frame.width, 3, 2 * pixels + _FIXED)


def of_pillow(
    image: ImageFile, size: int, frame: Frame | None, height: int, width: int, channels: int
) -> Plan:
    """Decoding a file of `size` bytes that Pillow has opened to height x width.

    frame: of a JPEG.
    """
    columns, rows = image.size
    pixels = columns * rows
    stored = _STORED.get(image.mode, _STORED_OTHERWISE)
    if image.format == "WEBP":
        stored += _WEBP
    elif is_rle(image):
        stored += _BMP_RLE
    result = pixels * channels + min(pixels, max(columns, BAND_PIXELS)) * _BAND
    libjpeg = _of_libjpeg(frame) if frame is not None else 0
    # Pillow has dropped its decoder before we convert, and may have read a copy of the file.
    peak = size + pixels * stored + max(libjpeg, result) + max(rows, columns) * _ROW + _FIXED
    return Plan(height, width, channels, peak)


def _of_libjpeg(frame: Frame) -> int:
    peak = frame.coefficients + frame.width * _JPEG_COLUMN + _FIXED
    # A file that takes long counts as large, so that small images find a free thread beside it.
    return max(peak, LARGE + 1) if _scanned(frame) > _QUICKLY_SCANNED else peak


def _scanned(frame: Frame) -> int:
    """Pixels that libjpeg goes over; 0 where an image comes in one scan."""
    return frame.height * frame.width * frame.scans if frame.coefficients else 0


def check_scans(frame: Frame) -> None:
    """Raises InvalidInput for a JPEG that takes too long to decode."""
    if frame.scans > _MOST_SCANS:
        raise InvalidInput(
            f"cannot decode image: it has {frame.scans} JPEG scans, the limit is {_MOST_SCANS}"
        )
    if _scanned(frame) > _MOST_SCANNED:
        raise InvalidInput(
            f"cannot decode image: {frame.width}x{frame.height} in {frame.scans} JPEG scans are "
            f"{_scanned(frame)} pixels to go over, the limit is {_MOST_SCANNED}; send it with "
            "fewer scans, or smaller"
        )


def check_rle(image: Image.Image, size: int) -> None:
    """Raises InvalidInput for a BMP of `size` bytes whose run lengths take too long to unpack."""
    pixels = image.size[0] * image.size[1]
    if is_rle(image) and (size > _MOST_RLE_BYTES or pixels > _MOST_RLE_PIXELS):
        raise InvalidInput(
            f"cannot decode image: a BMP with run lengths of {size} bytes and {pixels} pixels; the "
            f"limits are {_MOST_RLE_BYTES} and {_MOST_RLE_PIXELS}"
        )


def is_rle(image: Image.Image) -> bool:
    """Whether a BMP is compressed by run lengths."""
    return isinstance(image, ImageFile) and any(tile.codec_name == "bmp_rle" for tile in image.tile)

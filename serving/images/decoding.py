"""Decodes image files to upright uint8 RGB, at full size or reduced while they are decoded."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from serving.base.errors import InvalidInput
from serving.images.metadata import UPRIGHT, jpeg_has_end, orientation, without_texts

Pixels = NDArray[np.uint8]
# Maps the (height, width) of an upright image to the (height, width) after its resize.
TargetSize = Callable[[int, int], tuple[int, int]]

# Pixels of an image, at most. More lets larger photographs in, and lets a small file claim more
# memory.
DEFAULT_MAX_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_KNOWN_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM")
# The transposition that turns an image of each EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)

# Pixels a side that a JPEG must keep when it is reduced while it is decoded, as a multiple of the
# target. Larger is closer to a full decode, smaller is faster. At 2 a camera's photograph differs
# by at most 1 of 255 on average, a picture that is sharp to the pixel by 2.5
# (benchmarks/serving/decoding.py); 4 would halve that, but hardly any image would be reduced.
_REDUCING_GAP = 2

# Another decoder of plain JPEGs, where a server has one. It returns None for files that it leaves
# to libjpeg-turbo.
_other_jpeg_decoder: Callable[[bytes], Pixels | None] | None = None

# Pillow's limit holds for the whole process and would override a larger max_pixels.
Image.MAX_IMAGE_PIXELS = None


class LoadedImage(NamedTuple):
    """An upright image.

    pixels: uint8 [height, width, 3], RGB.
    size: (height, width) of the image as it was sent; `pixels` may be smaller.
    """

    pixels: Pixels
    size: tuple[int, int]


def use_jpeg_decoder(decoder: Callable[[bytes], Pixels | None] | None) -> None:
    """Lets `decoder` decode complete, upright JPEGs first, in the whole process; None removes it.
    It returns uint8 HWC RGB, or None for a file that it does not take."""
    global _other_jpeg_decoder
    _other_jpeg_decoder = decoder


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decodes a JPEG, PNG, WebP or BMP file to uint8 HWC RGB.

    The image is turned upright by its EXIF or else its XMP, by the rule of
    `serving.images.metadata`. Greyscale, palette and CMYK are converted, 16-bit samples keep their
    high byte, and an alpha channel is dropped. The pixel count in the header is checked before
    memory of that size is allocated. Texts and colour profiles of any size are passed over.

    A JPEG without its end marker is truncated. Faults that libjpeg only warns about, such as stray
    bytes before a marker, are passed over.

    Raises InvalidInput where the file is empty, truncated, corrupt, too large or of another format.
    """
    return decode_for(data, None, max_pixels).pixels


def decode_for(
    data: bytes, target_size: TargetSize | None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> LoadedImage:
    """Like `decode`, but a JPEG far larger than its target is reduced by 2, 4 or 8 while it is
    decoded. Without a `target_size` nothing is reduced. Raises the same errors as `decode`."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)")
    told = orientation(data)
    if told == UPRIGHT and data.startswith(_JPEG_START):
        image = _decode_plain_jpeg(data, target_size, max_pixels)
        if image is not None:
            return image
    return _decode_with_pillow(data, told, target_size, max_pixels)


def from_raw(data: bytes, height: int, width: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Raw RGB bytes as uint8 [height, width, 3], without a copy.

    Raises InvalidInput where the length does not fit the size.
    """
    _check_size(height, width, max_pixels)
    if len(data) != height * width * 3:
        raise InvalidInput(
            f"raw image of {width}x{height} needs {height * width * 3} bytes (RGB, 8 bits), "
            f"got {len(data)}"
        )
    return np.ndarray((height, width, 3), np.uint8, data)


def _decode_plain_jpeg(
    data: bytes, target_size: TargetSize | None, max_pixels: int
) -> LoadedImage | None:
    """The fast path. None for CMYK, rare chroma subsampling, and every file that libjpeg warns
    about, since Pillow's path distinguishes truncated files from files with stray bytes."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(height, width, max_pixels)
    if colorspace in ("CMYK", "YCCK"):
        return None
    # Another decoder may not notice that the end is missing.
    if _other_jpeg_decoder is not None and data.endswith(_JPEG_END):
        found = _other_jpeg_decoder(data)
        if found is not None:
            return LoadedImage(found, (height, width))
    factor = _reduction(height, width, target_size)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=-(-height // factor), min_width=-(-width // factor)
        )
    except ValueError:
        return None
    # As with Pillow, the last row and column are dropped where they cover less than a whole pixel.
    return LoadedImage(pixels[: round(height / factor), : round(width / factor)], (height, width))


def _decode_with_pillow(
    data: bytes, told: int, target_size: TargetSize | None, max_pixels: int
) -> LoadedImage:
    try:
        with Image.open(io.BytesIO(_readable(data)), formats=FORMATS) as image:
            width, height = image.size
            _check_size(height, width, max_pixels)
            size = (width, height) if told in _ON_THEIR_SIDE else (height, width)
            factor = 1
            if isinstance(image, JpegImageFile):
                if not jpeg_has_end(data):
                    raise InvalidInput(
                        "cannot decode image: it is truncated, its end marker is missing"
                    )
                factor = _reduction(*size, target_size)
            image.draft(None, (width // factor, height // factor))
            image.load()
            # The colour that stands for "transparent" is dropped, as an alpha channel is.
            image.info.pop("transparency", None)
            rgb = _rgb(image)
            if factor > 1:
                # The last row and column cover less where the size is no multiple of the factor.
                rgb = rgb.crop((0, 0, round(width / factor), round(height / factor)))
            turn = _TURNS.get(told)
            return LoadedImage(np.asarray(rgb if turn is None else rgb.transpose(turn)), size)
    except (InvalidInput, MemoryError):
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_KNOWN_STARTS):
            raise InvalidInput(
                f"cannot decode image: its header is damaged, cut off or claims no pixels "
                f"({len(data)} bytes that start with {data[:8].hex(' ')})"
            ) from error
        raise InvalidInput(
            f"not an image of a known format: expected {', '.join(FORMATS)}, "
            f"got {len(data)} bytes that start with {data[:8].hex(' ')}"
        ) from error
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise InvalidInput(f"cannot decode image: {error}") from error


def _readable(data: bytes) -> bytes:
    """The file without the parts that Pillow refuses although the pixels do not need them."""
    if data.startswith(_JPEG_START) and data[2:3] != b"\xff":
        # Pillow refuses stray bytes before the first marker, and passes over all later ones.
        return _JPEG_START + data[max(2, data.find(b"\xff", 2)) :]
    return without_texts(data)


def _reduction(height: int, width: int, target_size: TargetSize | None) -> int:
    """The factor, 1, 2, 4 or 8, by which each side of an upright JPEG may be reduced."""
    if target_size is None:
        return 1
    target_height, target_width = target_size(height, width)
    most = min(height / target_height, width / target_width) / _REDUCING_GAP
    return next(factor for factor in (8, 4, 2, 1) if factor <= most or factor == 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greyscale; Pillow's own conversion would clip instead of scale.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise InvalidInput(f"image has no pixels: {width}x{height}")
    if height * width > max_pixels:
        raise InvalidInput(
            f"image is too large: {width}x{height} is {height * width} pixels, "
            f"the limit is {max_pixels}"
        )

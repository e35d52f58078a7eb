"""From the bytes of an image file to the uint8 pixels that a network sees.

This is the one definition of it: training's evaluation, calibration and verification call it too.
Normalisation is inside the graph. All functions are pure; the native calls hold no Python lock.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from serving.base.errors import InvalidInput
from serving.repository.manifest import EvalTransform

Pixels = NDArray[np.uint8]

DEFAULT_MAX_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

_JPEG_START = b"\xff\xd8\xff"
_KNOWN_STARTS = (_JPEG_START, b"\x89PNG", b"BM")
_EXIF_HEADER = b"Exif\x00\x00"
_APP1, _START_OF_SCAN = b"\xe1", b"\xda"
# The end of the data, padding, TEM, RST0 to RST7, SOI and EOI.
_WITHOUT_LENGTH = (b"", b"\x00", b"\x01", *(bytes([code]) for code in range(0xD0, 0xDA)))
_PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# What turns an image of each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)

# A JPEG that is reduced while it is decoded keeps this many times the pixels that are wanted, to
# each side, for the resize that follows. With 2 the network's image of a camera's photograph is not
# more than 1 of 255 off that of a full decode, on average (benchmarks/serving/decoding.py), that of
# a picture that is sharp to the pixel up to 2.5. With 4 it would be half of that, and hardly any
# image would be reduced.
_REDUCING_GAP = 2

# What a crop shows is resized alone, with an edge at each side among so many that is off a whole
# source pixel by no more than this.
_EDGES = 16
_CUT_PIXELS = 1 / 16

# Another decoder of plain JPEGs, where a server has one; None of it leaves the image to ours.
_other_jpeg_decoder: Callable[[bytes], Pixels | None] | None = None

# Pillow's own limit, one for the whole process, would stand in for max_pixels where that is larger.
Image.MAX_IMAGE_PIXELS = None


def use_jpeg_decoder(decoder: Callable[[bytes], Pixels | None] | None) -> None:
    """Has plain JPEGs decoded by `decoder` first, in the whole process; None takes it out again. It
    gives uint8 HWC RGB, or None for what it does not take."""
    global _other_jpeg_decoder
    _other_jpeg_decoder = decoder


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decodes a JPEG, PNG, WebP or BMP file to uint8 HWC RGB.

    EXIF rotation is applied, greyscale, palette and CMYK are converted, 16-bit samples keep their
    high byte, and an alpha channel is dropped. The pixel count is checked against the header,
    before anything of that size is allocated.

    Raises InvalidInput where the file is empty, truncated, corrupt, too large or of another format.
    """
    return _decode(data, max_pixels, None).pixels


class LoadedImage(NamedTuple):
    """uint8 [height, width, 3], and the (height, width) of the image as it was sent, upright."""

    pixels: Pixels
    size: tuple[int, int]


def load_image(
    data: bytes, eval_transform: EvalTransform, max_pixels: int = DEFAULT_MAX_PIXELS
) -> LoadedImage:
    """decode and transform in one: what every consumer of an image file wants.

    A JPEG far larger than what the network sees is reduced while it is decoded, by 2, 4 or 8, which
    costs a fraction of the time and memory. Raises what `decode` and `transform` raise.
    """
    decoded = _decode(data, max_pixels, eval_transform)
    return LoadedImage(_transformed(decoded.pixels, decoded.size, eval_transform), decoded.size)


def _decode(data: bytes, max_pixels: int, shown: EvalTransform | None) -> LoadedImage:
    """The decoded image, not smaller than `shown` can do with."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)")
    if data.startswith(_JPEG_START) and _is_upright(data):
        image = _decode_plain_jpeg(data, max_pixels, shown)
        if image is not None:
            return image
    return _decode_with_pillow(data, max_pixels, shown)


def _is_upright(data: bytes) -> bool:
    """Whether nothing in a JPEG asks for a rotation; False where Pillow had better look.

    Before the first scan stand segments, each behind a marker of two bytes and its length (ITU-T
    T.81, B.1.1); one of them may hold EXIF.
    """
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xff":  # may be repeated
            position += 1
            continue
        if marker == _START_OF_SCAN:
            return True
        if marker in _WITHOUT_LENGTH:
            return False
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _APP1 and data.startswith(_EXIF_HEADER, position + 4):
            return _says_upright(data[position + 4 : end])
        if end < position + 4:
            return False
        position = end
    return False


def _says_upright(exif: bytes) -> bool:
    tags = Image.Exif()
    try:
        tags.load(exif)
        # Without the tag it may be XMP that tells, which Pillow reads.
        return bool(tags.get(ExifTags.Base.Orientation) == 1)
    except Exception:  # Damaged EXIF makes Pillow's readers raise almost anything.
        return False


def _reduction(height: int, width: int, shown: EvalTransform | None) -> int:
    """By how much a JPEG of this size, upright, may be reduced to each side: 1, 2, 4 or 8."""
    if shown is None:
        return 1
    target_height, target_width = _resized(height, width, shown.resize)
    most = min(height / target_height, width / target_width) / _REDUCING_GAP
    return next(factor for factor in (8, 4, 2, 1) if factor <= most or factor == 1)


def _decode_plain_jpeg(
    data: bytes, max_pixels: int, shown: EvalTransform | None
) -> LoadedImage | None:
    """The fast path, for all but rotated and CMYK files and those of rare chroma subsampling; None
    for those that Pillow must decode."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(height, width, max_pixels)
    if colorspace in ("CMYK", "YCCK"):
        return None
    if _other_jpeg_decoder is not None:
        found = _other_jpeg_decoder(data)
        if found is not None:
            return LoadedImage(found, (height, width))
    factor = _reduction(height, width, shown)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=-(-height // factor), min_width=-(-width // factor)
        )
    except ValueError as error:
        raise InvalidInput(f"cannot decode JPEG image: {error}") from error
    # As with Pillow: no row or column that stands for less than the others.
    return LoadedImage(pixels[: round(height / factor), : round(width / factor)], (height, width))


def _decode_with_pillow(data: bytes, max_pixels: int, shown: EvalTransform | None) -> LoadedImage:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(height, width, max_pixels)
            orientation = _orientation(image)
            size = (width, height) if orientation in _ON_THEIR_SIDE else (height, width)
            factor = _reduction(*size, shown) if isinstance(image, JpegImageFile) else 1
            image.draft(None, (width // factor, height // factor))
            image.load()
            # The colour that stands for "transparent" is dropped, as an alpha channel is.
            image.info.pop("transparency", None)
            # ImageOps.exif_transpose would write the EXIF block anew, and fails on odd ones.
            turn = _UPRIGHT.get(orientation)
            rgb = _rgb(image)
            if factor > 1:
                # The last row and column stand for less where the size is no multiple.
                rgb = rgb.crop((0, 0, round(width / factor), round(height / factor)))
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


def _orientation(image: Image.Image) -> int:
    if not isinstance(image, JpegImageFile):
        image.load()  # EXIF may stand behind the pixels, and those that are damaged have to raise
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Damaged EXIF makes Pillow's readers raise almost anything.
        return 1


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


def transform(image: Pixels, eval_transform: EvalTransform) -> Pixels:
    """Resizes and crops uint8 HWC RGB to what the network sees, uint8 [height, width, 3].

    "area" averages the source pixels under each target pixel (OpenCV's INTER_AREA; linear when it
    enlarges), whose edges may lie a sixteenth of a source pixel aside. "bilinear" and "bicubic" are
    Pillow's, which widen the kernel when they shrink, as torchvision does for PIL images.

    Raises InvalidInput for an image so long and thin that it would not fit in memory once resized.
    """
    return _transformed(image, (image.shape[0], image.shape[1]), eval_transform)


def _transformed(image: Pixels, sent: tuple[int, int], eval_transform: EvalTransform) -> Pixels:
    """`transform` of an image that was (height, width) large when it was sent."""
    height, width = sent
    target = _resized(height, width, eval_transform.resize)
    if target[0] * target[1] > DEFAULT_MAX_PIXELS:
        raise InvalidInput(
            f"image is too long and thin: {width}x{height} becomes {target[1]}x{target[0]} when "
            f"resized, the limit is {DEFAULT_MAX_PIXELS} pixels"
        )
    crop = eval_transform.crop or target
    rows, columns = _shown(target[0], crop[0]), _shown(target[1], crop[1])
    if target == image.shape[:2]:
        image = image[rows.start : rows.stop, columns.start : columns.stop]
    else:
        image = _resize(image, target, rows, columns, eval_transform.filter)
    return image if image.shape[:2] == crop else _with_black_edge(image, crop)


def keeps(height: int, width: int, eval_transform: EvalTransform) -> bool:
    """Whether `transform` leaves images of this size as they are."""
    size = (height, width)
    return _resized(*size, eval_transform.resize) == size and eval_transform.crop in (None, size)


def _resized(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, max(1, round(width * resize / height))
    return max(1, round(height * resize / width)), resize


class _Span(NamedTuple):
    """From pixel `start` up to `stop` of one axis."""

    start: int
    stop: int


def _shown(length: int, crop: int) -> _Span:
    """What a crop from the centre leaves of an axis."""
    start = max(0, (length - crop) // 2)
    return _Span(start, min(length, start + crop))


def _resize(
    image: Pixels, target: tuple[int, int], rows: _Span, columns: _Span, filter_name: str
) -> Pixels:
    """`rows` and `columns` of the image resized to `target` (height, width). The rest, which a crop
    leaves out, is not computed."""
    if filter_name != "area":
        scales = image.shape[1] / target[1], image.shape[0] / target[0]
        box = (
            columns.start * scales[0],
            rows.start * scales[1],
            columns.stop * scales[0],
            rows.stop * scales[1],
        )
        size = (columns.stop - columns.start, rows.stop - rows.start)
        method = _PILLOW_FILTERS[filter_name]
        return np.asarray(Image.fromarray(image).resize(size, method, box))
    if target[0] > image.shape[0] or target[1] > image.shape[1]:
        whole = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole[rows.start : rows.stop, columns.start : columns.stop], np.uint8)
    y, source_y = _whole_pixels(rows, target[0], image.shape[0])
    x, source_x = _whole_pixels(columns, target[1], image.shape[1])
    part = cv2.resize(
        image[source_y.start : source_y.stop, source_x.start : source_x.stop],
        (x.stop - x.start, y.stop - y.start),
        interpolation=cv2.INTER_AREA,
    )
    top, left = rows.start - y.start, columns.start - x.start
    shown = part[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
    return np.asarray(shown, np.uint8)


def _whole_pixels(shown: _Span, target: int, source: int) -> tuple[_Span, _Span]:
    """Of an axis that is resized from `source` to `target` pixels, a span around what is shown that
    stands for nearly whole source pixels, and these: resized alone it is what it is in the whole.
    """
    scale = source / target

    def off(edge: int) -> float:
        return abs(edge * scale - round(edge * scale))

    first = min(range(shown.start, max(-1, shown.start - _EDGES), -1), key=off)
    last = min(range(shown.stop, min(target + 1, shown.stop + _EDGES)), key=off)
    start = first if off(first) <= _CUT_PIXELS else 0
    stop = last if off(last) <= _CUT_PIXELS else target
    return _Span(start, stop), _Span(round(start * scale), round(stop * scale))


def _with_black_edge(image: Pixels, crop: tuple[int, int]) -> Pixels:
    """In the middle of an image of the crop's size."""
    height, width = image.shape[:2]
    top, left = (crop[0] - height) // 2, (crop[1] - width) // 2
    padded = np.zeros((*crop, 3), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded

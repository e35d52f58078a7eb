"""Decodes image files to upright uint8 RGB or grey, at full size or reduced while they are decoded.

Grey is luma by ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, on every path: a JPEG holds it, and
libjpeg-turbo gives it without the colours; other files are converted by Pillow.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from serving.base.errors import InvalidInput, ServingError
from serving.base.machine import heap
from serving.images import cost, jpeg, metadata
from serving.images.cost import Plan
from serving.repository.manifest import Channels

Pixels = NDArray[np.uint8]
# Maps the (height, width) of an upright image to the (height, width) after its resize.
TargetSize = Callable[[int, int], tuple[int, int]]
# Is told of a decode before it takes memory; an error that it raises prevents the decode. A decoder
# that gives up is followed by another one, whose plan takes the place of the first.
Reserve = Callable[[Plan], None]

# Pixels of an image, at most. More lets larger photographs in, and lets a small file claim more
# memory.
DEFAULT_MAX_PIXELS = 64_000_000
# Pixels of a side, at most: those of a JPEG. Longer ones take far more memory a pixel, as decoders
# keep something for each row.
_LONGEST_SIDE = 65_535
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# The names of one and of three channels: simplejpeg's, and those of messages.
_JPEG_COLOURS = {1: "GRAY", 3: "RGB"}
_RAW = {1: "grey", 3: "RGB"}
# Pillow's modes from which L takes the grey levels as they are.
_GREY = ("1", "L", "LA", "La")
# Bytes of a JPEG that is worth no thread. More take longer than the way there and back, 0.1 ms.
_QUICK_BYTES = 4 << 10
_JPEG_END = b"\xff\xd9"
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
# The orientations that put the first row of the file last: at the bottom or on the right.
_LAST_ROW_FIRST = (3, 4, 6, 7)

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

    pixels: uint8 [height, width, 3], RGB, or [height, width, 1], grey.
    size: (height, width) of the image as it was sent; `pixels` may be smaller.
    """

    pixels: Pixels
    size: tuple[int, int]


def use_jpeg_decoder(decoder: Callable[[bytes], Pixels | None] | None) -> None:
    """Lets `decoder` decode complete, upright JPEGs to RGB first, in the whole process; None
    removes it. It returns uint8 HWC RGB, or None for a file that it does not take."""
    global _other_jpeg_decoder
    _other_jpeg_decoder = decoder


def _unlimited(_: Plan) -> None:
    """For a process that decodes its own files."""


def decode(
    data: bytes,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reserve: Reserve = _unlimited,
    channels: Channels = 3,
) -> Pixels:
    """Decodes a JPEG, PNG, WebP or BMP file to uint8 HWC RGB, or with one channel to grey.

    The image is turned upright by its EXIF or else its XMP, by the rule of
    `serving.images.metadata`. Other colours are converted, 16-bit samples keep their high byte, and
    an alpha channel is dropped. The pixel count in the header is checked, and
    `reserve` called, before memory of that size is allocated. Texts and colour profiles of any size
    are passed over.

    A JPEG without its end marker is truncated. Faults that libjpeg only warns about, such as stray
    bytes before a marker, are passed over.

    Raises InvalidInput where the file is empty, truncated, corrupt, too large, of another format or
    made to take far longer than an image of its size does.
    """
    return decode_for(data, None, max_pixels, reserve, channels).pixels


def decode_for(
    data: bytes,
    target_size: TargetSize | None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reserve: Reserve = _unlimited,
    channels: Channels = 3,
) -> LoadedImage:
    """Like `decode`, but a JPEG far larger than its target is reduced by 2, 4 or 8 while it is
    decoded. Without a `target_size` nothing is reduced. Raises the same errors as `decode`."""
    if not data:
        raise InvalidInput("image is empty (0 bytes)")
    if not data.startswith(jpeg.START):
        told, bare = metadata.orientation(data), metadata.pixels_only(data)
        return _decode_with_pillow(bare, None, told, target_size, max_pixels, reserve, channels)
    parts = jpeg.segments(data)
    told = metadata.orientation(data, parts)
    frame = jpeg.frame_of(data, parts)
    if frame is None:
        raise _damaged_header(data)
    _check_size(frame.height, frame.width, max_pixels)
    if frame.coefficients:
        cost.check_scans(frame)
    if told == metadata.UPRIGHT:
        image = _decode_plain_jpeg(data, frame, target_size, reserve, channels)
        if image is not None:
            return image
    if not jpeg.has_end(data, parts):
        raise InvalidInput("cannot decode image: it is truncated, its end marker is missing")
    bare = jpeg.pixels_only(data, parts)
    return _decode_with_pillow(bare, frame, told, target_size, max_pixels, reserve, channels)


def is_quick(data: bytes | memoryview) -> bool:
    """Whether a file may be worth no thread: a short JPEG; `reserve` is told what it claims."""
    short = len(data) <= _QUICK_BYTES and _other_jpeg_decoder is None
    return short and data[: len(jpeg.START)] == jpeg.START


def sent_size(data: bytes) -> tuple[int, int]:
    """The (height, width) in the header of an image file, as it is stored; (0, 0) where it cannot
    be read."""
    try:
        if data.startswith(jpeg.START):
            frame = jpeg.frame_of(data, jpeg.segments(data))
            return (frame.height, frame.width) if frame is not None else (0, 0)
        bare = metadata.pixels_only(data)
        with Image.open(io.BytesIO(bare), formats=FORMATS) as image:
            return image.size[1], image.size[0]
    except Exception:  # As in decoding; to decode it will say what is wrong.
        return 0, 0


def from_raw(
    data: bytes | memoryview,
    height: int,
    width: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    channels: Channels = 3,
) -> Pixels:
    """Raw bytes as uint8 [height, width, channels], RGB or grey, without a copy.

    Raises InvalidInput where the length does not fit the size.
    """
    _check_size(height, width, max_pixels)
    if len(data) != height * width * channels:
        raise InvalidInput(
            f"raw image of {width}x{height} needs {height * width * channels} bytes "
            f"({_RAW[channels]}, 8 bits), got {len(data)}"
        )
    return np.ndarray((height, width, channels), np.uint8, data)


def with_channels(pixels: Pixels, channels: Channels) -> Pixels:
    """uint8 HWC RGB or grey as the other, by the rule for files; as it is where it fits."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, np.newaxis]


def _decode_plain_jpeg(
    data: bytes,
    frame: jpeg.Frame,
    target_size: TargetSize | None,
    reserve: Reserve,
    channels: Channels,
) -> LoadedImage | None:
    """The fast path. None for CMYK, rare chroma subsampling, and every file that libjpeg warns
    about, since Pillow's path distinguishes truncated files from files with stray bytes."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_same((height, width), frame)
    if colorspace in ("CMYK", "YCCK"):
        return None
    # Another decoder may not notice that the end is missing.
    if _other_jpeg_decoder is not None and channels == 3 and data.endswith(_JPEG_END):
        reserve(cost.of_other_decoder(frame))
        found = _other_jpeg_decoder(data)
        if found is not None:
            return LoadedImage(found, (height, width))
    factor = _reduction(height, width, target_size)
    rows, columns = -(-height // factor), -(-width // factor)
    reserve(cost.of_jpeg(frame, rows, columns, channels))
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace=_JPEG_COLOURS[channels], min_height=rows, min_width=columns
        )
    except ValueError:
        return None
    # As with Pillow, the last row and column are dropped where they cover less than a whole pixel.
    return LoadedImage(pixels[: round(height / factor), : round(width / factor)], (height, width))


def _decode_with_pillow(
    data: bytes,
    frame: jpeg.Frame | None,
    told: int,
    target_size: TargetSize | None,
    max_pixels: int,
    reserve: Reserve,
    channels: Channels,
) -> LoadedImage:
    """The path of every other file. `frame` is that of a JPEG."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(height, width, max_pixels)
            cost.check_rle(image, len(data))
            size = (width, height) if told in _ON_THEIR_SIDE else (height, width)
            factor = 1
            if frame is not None:
                _check_same((height, width), frame)
                factor = _reduction(*size, target_size)
                # To "L" libjpeg gives the luma that the file holds, as on the fast path.
                mode = "L" if channels == 1 else None
                image.draft(mode, (width // factor, height // factor))
            # The last row and column cover less where the size is no multiple of the factor.
            rows, columns = round(height / factor), round(width / factor)
            shape = (columns, rows) if told in _ON_THEIR_SIDE else (rows, columns)
            reserve(cost.of_pillow(image, len(data), frame, *shape, channels))
            image.load()
            # The colour that stands for "transparent" is dropped, as an alpha channel is.
            image.info.pop("transparency", None)
            return LoadedImage(_upright(image, rows, columns, told, channels), size)
    except (ServingError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_KNOWN_STARTS):
            raise _damaged_header(data) from error
        raise InvalidInput(
            f"not an image of a known format: expected {', '.join(FORMATS)}, "
            f"got {len(data)} bytes that start with {data[:8].hex(' ')}"
        ) from error
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise InvalidInput(f"cannot decode image: {error}") from error


def _upright(image: Image.Image, rows: int, columns: int, told: int, channels: Channels) -> Pixels:
    """The first `rows` and `columns` of an image as uint8 HWC, turned upright, a band of rows at a
    time: in one piece each step would take 3 to 8 bytes a pixel."""
    turn = _TURNS.get(told)
    on_side = told in _ON_THEIR_SIDE
    shape = (columns, rows) if on_side else (rows, columns)
    found = heap.empty((*shape, channels))
    height = max(1, cost.BAND_PIXELS // columns)
    for top in range(0, rows, height):
        bottom = min(rows, top + height)
        band = _converted(image.crop((0, top, columns, bottom)), channels)
        if turn is not None:
            band = band.transpose(turn)
        pixels = np.asarray(band).reshape(band.height, band.width, channels)
        if bottom - top == rows:
            return pixels
        begin, end = (rows - bottom, rows - top) if told in _LAST_ROW_FIRST else (top, bottom)
        place = found[:, begin:end] if on_side else found[begin:end]
        place[...] = pixels
    return found


def _reduction(height: int, width: int, target_size: TargetSize | None) -> int:
    """The factor, 1, 2, 4 or 8, by which each side of an upright JPEG may be reduced."""
    if target_size is None:
        return 1
    target_height, target_width = target_size(height, width)
    most = min(height / target_height, width / target_width) / _REDUCING_GAP
    return next(factor for factor in (8, 4, 2, 1) if factor <= most or factor == 1)


def _converted(image: Image.Image, channels: Channels) -> Image.Image:
    """An image in Pillow's mode RGB or L."""
    if image.mode.startswith("I"):
        # 16-bit greyscale; Pillow's own conversion would clip instead of scale.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if channels == 1 and image.mode not in ("RGB", *_GREY):
        # Pillow's own way from CMYK or a palette to L may round twice.
        image = image.convert("RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _damaged_header(data: bytes) -> InvalidInput:
    return InvalidInput(
        f"cannot decode image: its header is damaged, cut off or claims no pixels "
        f"({len(data)} bytes that start with {data[:8].hex(' ')})"
    )


def _check_same(size: tuple[int, int], frame: jpeg.Frame) -> None:
    """Raises InvalidInput where a decoder reads another size than we do: the memory was reckoned
    from ours."""
    if size != (frame.height, frame.width):
        raise InvalidInput(
            f"cannot decode image: its header is ambiguous, {frame.width}x{frame.height} or "
            f"{size[1]}x{size[0]}"
        )


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise InvalidInput(f"image has no pixels: {width}x{height}")
    if height * width > max_pixels:
        raise InvalidInput(
            f"image is too large: {width}x{height} is {height * width} pixels, "
            f"the limit is {max_pixels}"
        )
    if max(height, width) > _LONGEST_SIDE:
        raise InvalidInput(
            f"image is too long: {width}x{height}, a side has at most {_LONGEST_SIDE} pixels"
        )

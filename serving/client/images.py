"""Images that callers pass, and masks that they receive."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from protos.gen import vision_pb2 as pb

# A path to an image file, the bytes of one, or decoded pixels: uint8 [height, width, 3] for RGB,
# [height, width] or [height, width, 1] for grey.
ImageInput = str | Path | bytes | NDArray[np.uint8]

# Equal to the names in serving.base.folders, which the client cannot import.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
# Pixels of the largest mask that is unpacked, 128 MiB of them: a few bytes of run lengths may stand
# for any number. The largest image that a server decodes by default has 64 million.
MAX_MASK_PIXELS = 1 << 26
_SYSTEM_ENTRIES = frozenset({
    "$recycle.bin", "#recycle", "@eadir", "@recycle", "__macosx", "__pycache__", "desktop.ini",
    "ehthumbs.db", "icon\r", "lost+found", "system volume information", "thumbs.db",
})  # fmt: skip


def as_message(image: ImageInput) -> pb.Image:
    """The message that carries an image.

    Raises OSError for a file that cannot be read, ValueError for pixels of another type or shape,
    TypeError for what is no image.
    """
    if isinstance(image, bytes):
        return pb.Image(encoded=image)
    if isinstance(image, str | Path):
        return pb.Image(encoded=Path(image).read_bytes())
    if not isinstance(image, np.ndarray):
        raise _no_image(image)
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(
            "pixels: expected uint8 [height, width, 3] (RGB), [height, width] or "
            f"[height, width, 1] (grey), got {image.dtype} {list(image.shape)}"
        )
    raw = pb.RawImage(height=image.shape[0], width=image.shape[1])
    if grey:
        raw.grey = image.tobytes()
    else:
        raw.rgb = image.tobytes()
    return pb.Image(raw=raw)


def as_messages(images: ImageInput | Iterable[ImageInput]) -> list[pb.Image]:
    """One image or several. Raises as as_message."""
    if isinstance(images, str | Path | bytes | np.ndarray):
        return [as_message(images)]
    if not isinstance(images, Iterable):
        raise _no_image(images)
    return [as_message(image) for image in images]


def _no_image(value: object) -> TypeError:
    return TypeError(
        "image: expected a path, the bytes of an image file or pixels as a NumPy array, got "
        f"{type(value).__name__} {value!r:.40}"
    )


def each_image(images: str | Path | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """The image files below a folder, sorted, or the images of any other collection.

    Hidden entries and entries of operating systems (`._x.jpg`, `__MACOSX`) are passed over.
    Raises NotADirectoryError where a path is no folder, OSError where a folder cannot be read,
    TypeError for what is no collection.
    """
    if isinstance(images, str | Path):
        if not Path(images).is_dir():
            raise NotADirectoryError(f"{images}: expected a folder of images, or a list of them")
        return iter(sorted(_image_files(Path(images))))
    if not isinstance(images, Iterable):
        raise TypeError(
            f"images: expected a folder or a list, got {type(images).__name__} {images!r:.40}"
        )
    return iter(images)


def _image_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=refuse):
        # os.walk descends into the folders that stay in this list.
        folders[:] = [name for name in folders if not _is_passed_over(name)]
        for name in files:
            path = Path(place, name)
            if not _is_passed_over(name) and path.suffix.lower() in IMAGE_SUFFIXES:
                yield path


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_ENTRIES


def mask_of(result: pb.Segmentation, *, max_pixels: int = MAX_MASK_PIXELS) -> NDArray[np.uint16]:
    """The class map [height, width] of a result in any mask format.

    max_pixels: the largest mask that is unpacked.
    Raises ValueError for a mask of more pixels, and where it does not fill its height and width.
    """
    height, width = result.height, result.width
    if height * width > max_pixels:
        raise ValueError(f"mask of {height}x{width}: more than {max_pixels} pixels")
    match result.WhichOneof("mask"):
        case "palette_png":
            return _from_png(result.palette_png, height, width)
        case "rle":
            flat = _from_runs(result.rle.runs, height * width)
        case _:
            if len(result.raw) not in (height * width, 2 * height * width):
                raise ValueError(f"raw mask of {height}x{width}: got {len(result.raw)} bytes")
            wide = len(result.raw) > height * width
            flat = np.frombuffer(result.raw, "<u2" if wide else "u1").astype(np.uint16)
    return flat.reshape(height, width)


def _from_png(data: bytes, height: int, width: int) -> NDArray[np.uint16]:
    try:
        with PillowImage.open(io.BytesIO(data), formats=["PNG"]) as image:
            found = f"{image.height}x{image.width}, mode {image.mode}"
            # Pixels take memory only once they are asked for.
            if image.size == (width, height) and image.mode in ("P", "L"):
                return np.asarray(image).astype(np.uint16)
    except Exception as error:
        raise ValueError(f"mask of {height}x{width}: its PNG cannot be read: {error}") from error
    raise ValueError(f"mask of {height}x{width}: got a PNG of {found}")


def _from_runs(runs: Sequence[int], pixels: int) -> NDArray[np.uint16]:
    if len(runs) % 2 or len(runs) > 2 * pixels:
        raise ValueError(f"mask of {pixels} pixels: got {len(runs)} run lengths and indices")
    pairs = np.array(runs, dtype=np.uint32).reshape(-1, 2)
    if (total := int(pairs[:, 1].sum(dtype=np.uint64))) != pixels:
        raise ValueError(f"mask of {pixels} pixels: its run lengths add up to {total}")
    if len(pairs) and pairs[:, 0].max() > np.iinfo(np.uint16).max:
        raise ValueError(f"mask of {pixels} pixels: class index {pairs[:, 0].max()} is past 65535")
    return np.repeat(pairs[:, 0].astype(np.uint16), pairs[:, 1])

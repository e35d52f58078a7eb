"""What callers may pass as an image, and what they get as a mask."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from protos.gen import vision_pb2 as pb

# A path to an image file, the bytes of one, or decoded pixels: uint8 [height, width, 3] RGB.
ImageInput = str | Path | bytes | NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def as_message(image: ImageInput) -> pb.Image:
    """An image as it travels. Raises OSError for a file that cannot be read, ValueError for pixels
    of another type or shape."""
    if isinstance(image, bytes):
        return pb.Image(encoded=image)
    if isinstance(image, str | Path):
        return pb.Image(encoded=Path(image).read_bytes())
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"pixels: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}"
        )
    raw = pb.RawImage(height=image.shape[0], width=image.shape[1], rgb=image.tobytes())
    return pb.Image(raw=raw)


def as_messages(images: ImageInput | Iterable[ImageInput]) -> list[pb.Image]:
    """One image or several."""
    if isinstance(images, str | Path | bytes | np.ndarray):
        return [as_message(images)]
    return [as_message(image) for image in images]


def each_image(images: str | Path | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """The image files below a folder, by name, or the images of any other collection. Raises
    NotADirectoryError where a path is no folder."""
    if isinstance(images, str | Path):
        if not Path(images).is_dir():
            raise NotADirectoryError(f"{images}: expected a folder of images, or a list of them")
        files = (p for p in Path(images).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return iter(sorted(files))
    return iter(images)


def mask_of(result: pb.Segmentation) -> NDArray[np.uint16]:
    """The class map [height, width] of a result, whatever format it came in."""
    match result.WhichOneof("mask"):
        case "palette_png":
            with PillowImage.open(io.BytesIO(result.palette_png)) as image:
                return np.asarray(image).astype(np.uint16)
        case "rle":
            runs = np.array(result.rle.runs, dtype=np.uint32).reshape(-1, 2)
            flat = np.repeat(runs[:, 0].astype(np.uint16), runs[:, 1])
        case _:
            wide = len(result.raw) > result.height * result.width
            flat = np.frombuffer(result.raw, "<u2" if wide else "u1").astype(np.uint16)
    return flat.reshape(result.height, result.width)

"""From an item of a source to its image and target: as the network sees them, and as they are."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.base.tensor import Array
from serving.images.postprocess import resize_mask
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform

Pixels = NDArray[np.uint8]
# Classification: int64 [N], the classes. Segmentation: uint8 [N, H, W], the class of each pixel.
Targets = Array

Item = TypeVar("Item")
Given = TypeVar("Given", contravariant=True)


class Loaded(NamedTuple):
    """One image with its target.

    image: uint8 [H, W, C], of the evaluation transform's size.
    size: height and width before the evaluation transform.
    """

    image: Pixels
    target: Targets
    size: tuple[int, int]


class Original(NamedTuple):
    """One image as its source holds it.

    content: bytes of an image file.
    target: its class, int64 []; or the class of each of its own pixels, uint8 [H, W].
    """

    content: bytes
    target: Targets


@runtime_checkable
class Reader(Protocol[Given]):
    """Reads an item of a source. Raises InvalidInput, DataError, OSError."""

    def __call__(self, item: Given) -> Loaded:
        """As the network sees it."""

    def original(self, item: Given) -> Original:
        """As the source holds it."""


@dataclass(frozen=True)
class ImageReader(Generic[Item]):
    """Reads an item as the network sees it. Raises InvalidInput, DataError, OSError.

    content: bytes of the image's file.
    target: its class, int64 []; or for an image of (height, width) the class of each of its own
        pixels, uint8 [height, width].
    """

    content: Callable[[Item], bytes]
    target: Callable[[Item, tuple[int, int]], Targets]
    transform: EvalTransform

    def __call__(self, item: Item) -> Loaded:
        image = load_image(self.content(item), self.transform)
        target = self.target(item, image.size)
        if target.ndim:
            target = np.asarray(resize_mask(target, *self.transform.size), np.uint8)
        return Loaded(image.pixels, target, image.size)

    def original(self, item: Item) -> Original:
        """As every Reader."""
        content = self.content(item)
        # The network's own image tells the size of the whole one.
        return Original(content, self.target(item, load_image(content, self.transform).size))


def as_png(image: Pixels) -> bytes:
    """The file of an image, uint8 [H, W, C] with one channel or three."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()

"""Turns the pixels that a network sees into the tensor that a network made elsewhere takes."""

import cv2
import numpy as np

from serving.base.tensor import Array, TensorSpec
from serving.images.decoding import Pixels
from serving.repository.interface import ImageInput

# Bytes of one value on its way: OpenCV looks values up in FP32.
_WORKING = 4


class ToTensor:
    """uint8 [height, width, channels], RGB or grey, to the described tensor of one image.

    Every pixel value is looked up in a table, so that the result does not depend on the CPU.
    """

    def __init__(self, described: ImageInput, spec: TensorSpec) -> None:
        low, high = described.range
        values = low + np.arange(256)[:, None] * ((high - low) / 255)
        values = (values - np.array(described.mean)) / np.array(described.std)
        # [1, 256, channels], as OpenCV takes it.
        self._table = values.astype(np.float32)[None]
        self._described = described
        self._dtype = spec.dtype
        self._rank = len(spec.shape)
        self.name = described.name

    def __call__(self, pixels: Pixels) -> Array:
        """The tensor of one image, C-contiguous, with a batch of one where the input has four
        dimensions."""
        tensor = self.of_item(pixels)
        return tensor[np.newaxis] if self._rank > tensor.ndim else tensor

    def of_item(self, pixels: Pixels) -> Array:
        """The tensor of one image, C-contiguous, without a batch."""
        described = self._described
        if described.channels == "BGR":
            pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
        values: Array = pixels
        if not described.as_they_are:
            values = np.asarray(cv2.LUT(pixels, self._table)).reshape(pixels.shape)
        if described.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values, self._dtype)

    def working_bytes(self, size: tuple[int, int]) -> int:
        """Bytes that the conversion of an image of (height, width) takes at most, its result
        included."""
        values = size[0] * size[1] * self._described.depth
        return values * (1 + _WORKING + max(_WORKING, self._dtype.itemsize))

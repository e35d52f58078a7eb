"""nvImageCodec without a GPU. FAKE_NVIMGCODEC: "off by N" levels, "refuses" every image, or
"raises"."""

import enum
import io
import os
import threading
from typing import Any

import numpy as np
from PIL import Image as PilImage


class ColorSpec(enum.Enum):
    SRGB = 1


class DecodeParams:
    def __init__(self, *, apply_exif_orientation: bool, color_spec: ColorSpec) -> None:
        assert not apply_exif_orientation, "rotated files are decoded elsewhere"
        assert color_spec is ColorSpec.SRGB


class CodeStream:
    def __init__(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.data = data


class Image:
    def __init__(self, pixels: np.ndarray[Any, Any], in_host: bool) -> None:
        self._pixels, self._in_host = pixels, in_host

    def cpu(self) -> "Image":
        return Image(self._pixels, in_host=True)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        assert self._in_host, "pixels on the device are read from the host"
        return self._pixels


class Decoder:
    def __init__(self, *, options: str) -> None:
        assert options.startswith(":")
        self._thread = threading.get_ident()

    def decode(self, src: CodeStream, *, params: DecodeParams) -> Image | None:
        assert threading.get_ident() == self._thread, "a decoder of another thread is used"
        assert isinstance(src, CodeStream)
        assert isinstance(params, DecodeParams)
        setting = os.environ.get("FAKE_NVIMGCODEC", "off by 0")
        if setting == "refuses":
            return None
        if setting == "raises":
            raise RuntimeError("bitstream not supported")
        pixels = np.asarray(PilImage.open(io.BytesIO(src.data)).convert("RGB")).astype(np.int16)
        shifted = pixels + int(setting.removeprefix("off by "))
        return Image(np.clip(shifted, 0, 255).astype(np.uint8), in_host=False)

"""Decodes JPEGs on the GPU's own unit, where NVIDIA's nvImageCodec is installed and agrees.

It is an option (`--hardware-decode`), since training, calibration and verification see the pixels
of libjpeg-turbo, and another decoder rounds the last bits differently. Before the first call, both
decode the same pictures; a difference above the tolerances leaves the GPU's decoder off.
"""

import io
import threading
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from serving.images.decoding import use_jpeg_decoder

Pixels = NDArray[np.uint8]

# Mean and largest difference from libjpeg-turbo, in levels of 0 to 255. Larger accepts decoders
# that differ by more than the rounding of enlarged chroma; smaller refuses that rounding too.
MEAN_TOLERANCE = 1.0
LARGEST_TOLERANCE = 16

_SIZES = ((64, 64), (375, 500), (225, 311))
# Interpolates chroma as libjpeg-turbo does; nvImageCodec's default repeats pixels.
_OPTIONS = ":fancy_upsampling=1"


class HardwareJpegDecoder:
    """Decodes on the first GPU. The library's decoder is not thread-safe: each thread has its
    own."""

    def __init__(self) -> None:
        from nvidia import nvimgcodec

        self._codec: Any = nvimgcodec
        self._params = nvimgcodec.DecodeParams(
            apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB
        )
        self._local = threading.local()

    def __call__(self, data: bytes) -> Pixels | None:
        """uint8 HWC RGB in host memory; None for a file that this decoder does not take."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = self._codec.Decoder(options=_OPTIONS)
        try:
            image = self._local.decoder.decode(self._codec.CodeStream(data), params=self._params)
            in_host = image.cpu() if image is not None else None
        except Exception:  # The binding raises its own unrelated types, for odd files too.
            return None
        if in_host is None:
            return None
        pixels = np.asarray(in_host)
        fits = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        return np.ascontiguousarray(pixels) if fits else None


def enable() -> str | None:
    """Decodes JPEGs in hardware from now on. Returns None, or the reason why that is impossible."""
    try:
        decoder = HardwareJpegDecoder()
        problem = _disagreement(decoder)
    except ImportError as error:
        return f"nvImageCodec is not installed (nvidia-nvimgcodec): {error}"
    except Exception as error:  # the binding raises its own unrelated types
        return f"nvImageCodec does not run here: {error}"
    if problem is None:
        use_jpeg_decoder(decoder)
    return problem


def _disagreement(decoder: HardwareJpegDecoder) -> str | None:
    """The difference from libjpeg-turbo, if there is one above the tolerances, on a few sizes and
    the usual subsamplings."""
    for height, width in _SIZES:
        for subsampling in ("4:4:4", "4:2:0"):
            data = _picture(height, width, subsampling)
            expected = simplejpeg.decode_jpeg(data, colorspace="RGB").astype(np.int16)
            found = decoder(data)
            if found is None or found.shape != expected.shape:
                return f"nvImageCodec does not decode a JPEG of {width}x{height}, {subsampling}"
            off = np.abs(found - expected)
            if off.mean() > MEAN_TOLERANCE or off.max() > LARGEST_TOLERANCE:
                return (
                    f"nvImageCodec's pixels differ by {off.mean():.2f} on average and {off.max()} "
                    f"at most ({width}x{height}, {subsampling}); allowed are {MEAN_TOLERANCE} and "
                    f"{LARGEST_TOLERANCE}"
                )
    return None


def _picture(height: int, width: int, subsampling: str) -> bytes:
    """A JPEG of smooth colours, from a fixed seed."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=subsampling)
    return buffer.getvalue()

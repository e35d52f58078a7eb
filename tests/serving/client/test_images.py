"""Pixels that callers pass, as they are sent."""

import numpy as np
import pytest

from protos.gen import vision_pb2 as pb
from serving.client.images import as_message

PIXELS = np.arange(24, dtype=np.uint8)


def test_three_channels_are_sent_as_rgb() -> None:
    expected = pb.RawImage(height=2, width=4, rgb=PIXELS.tobytes())
    assert as_message(PIXELS.reshape(2, 4, 3)) == pb.Image(raw=expected)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_one_channel_is_sent_as_grey(shape: tuple[int, ...]) -> None:
    expected = pb.RawImage(height=4, width=6, grey=PIXELS.tobytes())
    assert as_message(PIXELS.reshape(shape)) == pb.Image(raw=expected)


@pytest.mark.parametrize("shape", [(24,), (3, 4, 2), (2, 3, 4), (1, 2, 4, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[height, width, 1\] \(grey\), got uint8 \["):
        as_message(PIXELS.reshape(shape))


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got float32 \[2, 4, 3\]"):
        as_message(PIXELS.reshape(2, 4, 3).astype(np.float32))  # type: ignore[arg-type]

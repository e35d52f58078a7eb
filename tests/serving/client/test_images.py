"""Pixels that callers pass, as they are sent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protos.gen import vision_pb2 as pb
from serving.client.calls import CallFailed
from serving.client.images import as_message, as_messages, each_image
from serving.client.many import _groups
from serving.client.requests import classify_request, embed_request, segment_request

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


@pytest.mark.parametrize("given", [3, None, [None], [b"", 3.5]])
def test_what_is_no_image_is_named(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^image: expected a path, .* got (int|NoneType|float) "):
        as_messages(given)


def test_what_is_no_image_fails_alone_among_many() -> None:
    [group] = _groups(each_image([b"image", 3]), 8)  # type: ignore[list-item]
    (_, sent), (_, failure) = group
    assert isinstance(sent, pb.Image)
    assert isinstance(failure, CallFailed)
    assert (failure.code, failure.message[:24]) == ("INVALID_ARGUMENT", "image: expected a path, ")
    with pytest.raises(TypeError, match=r"^images: expected a folder or a list, got int 3$"):
        each_image(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_for", "model", "options", "error", "said"),
    [
        (classify_request, 3, {}, TypeError, "model: expected a text, got int 3"),
        (embed_request, "m", {"version": 1}, TypeError, "version: expected a text, got int 1"),
        (embed_request, "m", {"top_k": 1}, TypeError, "top_k: no option of this call; expected ve"),
        (classify_request, "m", {"topk": 1}, TypeError, "topk: no option of this call; expected "),
        (segment_request, "m", {"mask_format": "gif"}, ValueError, "mask_format: expected one of "),
        (
            segment_request,
            "m",
            {"mask_size": "1x1"},
            ValueError,
            "mask_size: expected one of image",
        ),
    ],
)
def test_options_that_a_call_cannot_take_are_named(
    request_for: Callable[..., Any], model: Any, options: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"^{said}"):
        request_for(model, [], options)

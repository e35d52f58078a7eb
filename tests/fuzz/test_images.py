"""Whatever bytes come as an image are pixels within the limit, or bad input."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.errors import InvalidInput
from serving.images.decoding import decode, decode_for, from_raw
from serving.images.metadata import orientation, pixels_only
from serving.repository.manifest import Channels
from tests.fuzz.changed import changed, check_text
from tests.support import hostile_files, valid_requests
from tests.support.mutation import EXTREMES, changed_bytes
from tests.support.pictures import encoded, exif_segment, smooth, with_segments, xmp_segment

MAX_PIXELS = 300_000
CHANNELS: tuple[Channels, ...] = (1, 3)
_SMALL = 40
FILES = [
    *valid_requests.files(),
    *(make(_SMALL) for make in hostile_files.BOMBS.values()),
    encoded(smooth(), "JPEG", progressive=True, subsampling="4:2:0"),
    with_segments(encoded(smooth(), "JPEG"), exif_segment(6), xmp_segment(3)),
]


@settings(settings.get_profile("fuzz"))
@given(changed(FILES, changed_bytes))
@example(hostile_files.webp())
@example(hostile_files.webp(16_383, 16_383))
@example(hostile_files.animated_webp())
@example(hostile_files.png(depth=1))
@example(hostile_files.png(colour=6))
@example(hostile_files.png(500, 500, depth=16, colour=6, adam7=True))
@example(hostile_files.png(300_001, 1))
@example(hostile_files.bmp())
@example(hostile_files.bmp(500, 500))
@example(hostile_files.jpeg(500, 500))
@example(hostile_files.progressive_jpeg())
@example(hostile_files.progressive_jpeg(500, 500, 800))
@example(hostile_files.many_segments())
@example(hostile_files.png_with_text_bomb(64))
def test_a_file_is_pixels_within_the_limit_or_refused(data: bytes) -> None:
    try:
        pixels, grey = decode(data, MAX_PIXELS), decode(data, MAX_PIXELS, channels=1)
    except InvalidInput as error:
        check_text(error)
        return
    height, width, channels = pixels.shape
    assert channels == 3
    assert grey.shape == (height, width, 1)
    assert pixels.dtype == grey.dtype == np.uint8
    assert 1 <= height * width <= MAX_PIXELS
    assert orientation(data) in range(1, 9)
    assert len(pixels_only(data)) <= len(data)


@settings(settings.get_profile("fuzz"))
@given(changed(FILES, changed_bytes), st.integers(1, 64), st.integers(1, 64))
def test_a_file_that_is_reduced_keeps_its_size_and_enough_pixels(
    data: bytes, height: int, width: int
) -> None:
    try:
        loaded = decode_for(data, lambda _, __: (height, width), MAX_PIXELS)
    except InvalidInput:
        return
    assert loaded.size[0] * loaded.size[1] <= MAX_PIXELS
    for got, sent, wanted in zip(loaded.pixels.shape, loaded.size, (height, width), strict=False):
        assert min(sent, wanted) <= got <= sent


@settings(settings.get_profile("fuzz"))
@given(
    st.binary(max_size=200),
    *[st.one_of(st.integers(), st.sampled_from(EXTREMES))] * 2,
    st.sampled_from(CHANNELS),
)
@example(bytes(48), 4, 4, 3)
@example(bytes(16), 4, 4, 1)
@example(b"", 0, 1 << 31, 3)
def test_raw_pixels_fit_their_size_or_are_refused(
    data: bytes, height: int, width: int, channels: Channels
) -> None:
    try:
        pixels = from_raw(data, height, width, MAX_PIXELS, channels)
    except InvalidInput:
        return
    assert pixels.shape == (height, width, channels)
    assert pixels.tobytes() == data

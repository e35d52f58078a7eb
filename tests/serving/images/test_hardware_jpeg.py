"""Decoding in hardware: taken where it agrees, left out with the reason where it does not."""

import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images import hardware_jpeg
from serving.images.decoding import decode, use_jpeg_decoder
from tests.support import fake_gpu


@pytest.fixture(autouse=True)
def codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(fake_gpu.FOLDER))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    yield
    use_jpeg_decoder(None)
    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        del sys.modules[name]


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_pixels_come_from_the_hardware_once_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decode(jpeg())
    monkeypatch.setenv("FAKE_NVIMGCODEC", "off by 1")
    assert hardware_jpeg.enable() is None
    assert np.array_equal(decode(jpeg()), plain + 1)
    with ThreadPoolExecutor(3) as pool:
        assert all(np.array_equal(x, plain + 1) for x in pool.map(decode, [jpeg()] * 12))


def test_other_pixels_leave_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decode(jpeg())
    monkeypatch.setenv("FAKE_NVIMGCODEC", "off by 3")
    reason = hardware_jpeg.enable()
    assert reason is not None
    assert "differ by" in reason
    assert np.array_equal(decode(jpeg()), plain)


@pytest.mark.parametrize("behaviour", ["refuses", "raises"])
def test_what_it_refuses_is_decoded_as_before(
    behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decode(jpeg())
    assert hardware_jpeg.enable() is None
    monkeypatch.setenv("FAKE_NVIMGCODEC", behaviour)
    assert np.array_equal(decode(jpeg()), plain)
    assert "does not decode" in (hardware_jpeg.enable() or "")


def test_without_the_package_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    assert "nvImageCodec is not installed" in (hardware_jpeg.enable() or "")


def test_file_that_is_cut_off_never_reaches_it() -> None:
    assert hardware_jpeg.enable() is None
    seen: list[bytes] = []
    use_jpeg_decoder(seen.append)
    with pytest.raises(InvalidInput, match="truncated"):
        decode(jpeg()[:-2])
    assert not seen

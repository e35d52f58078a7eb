"""Masks: the values that a file holds, and the folders in which masks lie beside images."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.masks.files import are_black_and_white, read_mask
from serving.images.masks.folders import read_classes


def mask_file(folder: Path, mask: np.ndarray, name: str = "mask.png") -> Path:
    path = folder / name
    Image.fromarray(mask).save(path)
    return path


def values_of(path: Path) -> np.ndarray:
    values = read_mask(path).values
    assert values is not None
    return values


def test_grey_and_palette_masks_give_their_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 255], [7, 8, 9]], np.uint8)
    assert np.array_equal(values_of(mask_file(tmp_path, indices)), indices)
    palette = Image.fromarray(indices)
    palette.putpalette([5] * 768)
    palette.save(tmp_path / "palette.png")
    found = values_of(tmp_path / "palette.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, indices)


def test_masks_of_one_bit_hold_0_and_1(tmp_path: Path) -> None:
    path = mask_file(tmp_path, np.array([[False, True]]))
    assert values_of(path).tolist() == [[0, 1]]
    assert not are_black_and_white([path])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 0], [0, 255]], True),
        ([[255, 255]], True),
        ([[0, 0]], False),
        ([[0, 255], [0, 1]], False),
        ([[0, 128], [0, 255]], False),
    ],
)
def test_black_and_white_is_0_and_255_alone(
    tmp_path: Path, values: list[list[int]], expected: bool
) -> None:
    files = [
        mask_file(tmp_path, np.array([row], np.uint8), f"{index}.png")
        for index, row in enumerate(values)
    ]
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert are_black_and_white([tmp_path / "broken.png", *files]) is expected


def test_classes_are_lines_without_the_space_around_them(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xef\xbb\xbfbackground\r\n red \r\n\r\n")
    assert read_classes(file) == ["background", "red"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("background\n\nthing\n", "classes.txt: line 2: empty; expected a class"),
        ("\nbackground\n", "classes.txt: line 1: empty"),
        ("", "classes.txt: empty; expected one class a line"),
        ("a\nb\n a\n", "classes.txt: line 3: 'a' is line 1 too"),
    ],
)
def test_empty_and_repeated_lines_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_classes(tmp_path / "classes.txt")


def test_values_of_16_bits_and_of_4_are_those_of_the_file(tmp_path: Path) -> None:
    wide = np.array([[0, 300, 65535]], np.uint16)
    assert values_of(mask_file(tmp_path, wide)).tolist() == wide.tolist()
    four = b"\x01\x2f"  # 0, 1, 2, 15
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"\0" + four)), (b"IEND", b"")]
    (tmp_path / "four.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    assert values_of(tmp_path / "four.png").tolist() == [[0, 1, 2, 15]]


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_pixels_in_a_colour_file_are_values_too(tmp_path: Path, channels: int) -> None:
    pixels = np.full((2, 3, channels), 255, np.uint8)
    pixels[..., :3] = np.array([[0, 1, 2], [3, 4, 255]])[..., np.newaxis]
    found = read_mask(mask_file(tmp_path, pixels))
    assert found.values is not None
    assert found.values.tolist() == [[0, 1, 2], [3, 4, 255]]
    pixels[0, 0, 1] = 9
    found = read_mask(mask_file(tmp_path, pixels))
    assert found.values is None
    assert found.colours is not None
    assert found.colours[0, 0].tolist() == [0, 9, 0]


def test_palette_is_given_with_the_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "p.png")
    found = read_mask(tmp_path / "p.png")
    assert found.palette is not None
    assert found.palette[:2].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_mask_in_the_transparency_of_one_colour_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 3] = 255
    with pytest.raises(InvalidInput, match=r"mask\.png: has one colour; its shape is in the trans"):
        read_mask(mask_file(tmp_path, pixels))


@pytest.mark.parametrize("mode", ["CMYK", "F"])
def test_mask_of_another_kind_is_named(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "mask.tif"
    Image.new(mode, (2, 2)).save(path)
    with pytest.raises(
        InvalidInput, match=rf"mask\.tif: expected grey, palette or RGB, got {mode}"
    ):
        read_mask(path)


def test_mask_of_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(InvalidInput, match=r"mask\.png: 9000x9000 is more than 64000000 pixels"):
        read_mask(path)


def test_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be decoded"):
        read_mask(path)
    path.write_bytes(b"no image")
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be decoded"):
        read_mask(path)


def test_mask_with_a_header_cut_short_is_named(tmp_path: Path) -> None:
    path = mask_file(tmp_path, np.zeros((6, 6), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"\x0dIHDR", b"\x00IHDR"))
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be decoded"):
        read_mask(path)


def test_damaged_mask_is_read_or_refused_as_invalid_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = mask_file(tmp_path, rng.integers(0, 9, (20, 20), np.uint8)).read_bytes()
    chance, refused = random.Random(0), 0
    path = tmp_path / "damaged.png"
    for _ in range(300):
        damaged = bytearray(original)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
        # The size stays: it is 20x20 or the file is damaged, never a request for gigabytes.
        damaged[16:24] = original[16:24]
        path.write_bytes(damaged[: chance.randrange(40, len(damaged) + 1)])
        try:
            assert values_of(path).dtype == np.uint8
        except InvalidInput as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100

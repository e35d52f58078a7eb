"""Text files of users: the encodings that are read, and the line that is not."""

import codecs
from pathlib import Path

import pytest

from serving.base.errors import InvalidInput
from serving.base.text import read_lines, read_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.txt"


def test_byte_order_mark_is_passed_over(file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + "grün\n".encode())
    assert read_text(file) == "grün\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_those_of_any_system(file: Path, end: str) -> None:
    file.write_bytes(f" a {end}{end}b\u2028c{end}{end} {end}".encode())
    assert read_lines(file) == ["a", "", "b\u2028c"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rot\r\nblau\r\ngrün\r\n".encode("latin-1"), "line 3: expected UTF-8, .* byte 0xfc"),
        ("rot\n".encode("utf-16"), "line 1: expected UTF-8, got UTF-16"),
        ("rot\n".encode("utf-32"), "line 1: expected UTF-8, got UTF-32"),
        ("rot\n".encode("utf-16-le"), "line 1: expected UTF-8, got a zero byte"),
        (b"rot\nb\0\n", "line 2: expected UTF-8, got a zero byte"),
        (b"cut \xc3", "line 1: expected UTF-8, got the byte 0xc3"),
    ],
)
def test_another_encoding_is_named_with_file_and_line(
    file: Path, content: bytes, said: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=rf"list\.txt, {said}"):
        read_text(file)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.txt: no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read_text(tmp_path)

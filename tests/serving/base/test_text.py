"""Text files of users: the encodings that are read, and the line that is not."""

import codecs
from pathlib import Path

import pytest

from serving.base.text import NotText, lines_of, read_utf8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.txt"


def test_byte_order_mark_is_passed_over(file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + "grün\n".encode())
    assert read_utf8(file) == "grün\n"


def test_lines_end_as_on_any_system_and_nowhere_else(file: Path) -> None:
    assert lines_of("a\r\n\r\nb\u2028c\n") == ("a", "", "b\u2028c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rot\r\nblau\r\ngrün\r\n".encode("latin-1"), "line 3: byte 0xfc is not UTF-8"),
        ("rot\n".encode("utf-16"), "line 1: UTF-16, expected UTF-8"),
        ("rot\n".encode("utf-32"), "line 1: UTF-32, expected UTF-8"),
        ("rot\n".encode("utf-16-le"), "line 1: a zero byte"),
        (b"rot\nb\0\n", "line 2: a zero byte"),
        (b"cut \xc3", "line 1: byte 0xc3 is not UTF-8"),
    ],
)
def test_another_encoding_is_named_with_file_and_line(
    file: Path, content: bytes, said: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(NotText, match=rf"list\.txt: {said}"):
        read_utf8(file)

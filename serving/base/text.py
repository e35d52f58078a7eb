"""Text files that a user wrote: UTF-8, with or without a byte-order mark."""

import codecs
from pathlib import Path

from serving.base.errors import InvalidInput

_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path) -> str:
    """The text of a file without its byte-order mark, line ends as they are.

    Raises InvalidInput naming the file, and the line where it is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror or error}") from error
    return decoded_text(content, str(path))


def read_lines(path: Path) -> list[str]:
    """The lines of a file without their ends (LF, CR LF or CR), without white space around them
    and without empty lines at the end. Raises what `read_text` raises."""
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip() for line in text.rstrip().split("\n")]


def decoded_text(content: bytes, name: str) -> str:
    """The text that a file holds; `name` begins every message.

    Raises InvalidInput naming the line that is not UTF-8.
    """
    for mark, encoding in _WIDE_MARKS.items():
        if content.startswith(mark):
            raise InvalidInput(f"{name}, line 1: expected UTF-8, got {encoding}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name}, line {_line_at(content, error.start)}: expected UTF-8, "
            f"got the byte 0x{content[error.start]:02x}"
        ) from error
    # UTF-16 and UTF-32 without a mark: ASCII in them is valid UTF-8 between zero bytes.
    if "\0" in text:
        line = _line_at(content, content.index(b"\0"))
        raise InvalidInput(f"{name}, line {line}: expected UTF-8, got a zero byte (UTF-16?)")
    return text


def _line_at(content: bytes, offset: int) -> int:
    """The number, from 1, of the line that holds a byte."""
    return len(content[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))

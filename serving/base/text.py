"""Text files that people write, and messages that people read."""

import codecs
from pathlib import Path

from pydantic import ValidationError

from serving.base.files import TEXT_BYTES, find_file, read_file

# Characters of a reason in /readyz, the index and errors. Longer would break their lines and fill
# gRPC's trailers; the log holds the whole text.
REASON_LENGTH = 300

# Longest first: the mark of UTF-32 begins with that of UTF-16.
_FOREIGN_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class NotText(Exception):
    """A file that is not UTF-8.

    reason: the line of the fault, and the encoding that the file may have instead.
    """

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.reason = reason


def read_utf8(file: Path) -> str:
    """The text of a file in UTF-8, without its byte-order mark.

    Raises OSError, and NotText, naming file and line, for another encoding.
    """
    return decode_utf8(file, file.read_bytes())


def read_text(folder: Path, name: str, *homes: Path, limit: int = TEXT_BYTES) -> str:
    """As `read_utf8`, for a file that somebody else put into `folder`: it has to be a regular file
    of at most `limit` bytes, and a link may lead no further than `find_file` allows."""
    return decode_utf8(folder / name, read_file(find_file(folder, name, *homes), limit))


def decode_utf8(file: Path | str, content: bytes) -> str:
    """As `read_utf8`, for content that was read already."""
    for mark, encoding in _FOREIGN_MARKS:
        if content.startswith(mark):
            raise NotText(file, f"line 1: {encoding}, expected UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    zero = content.find(b"\0")
    if zero >= 0 and len(content) > 1:
        line = _line(content, zero)
        raise NotText(file, f"line {line}: a zero byte, as in UTF-16; expected UTF-8")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line, byte = _line(content, error.start), content[error.start]
        raise NotText(file, f"line {line}: byte 0x{byte:02x} is not UTF-8 (Latin-1?)") from error


def _line(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a text, whose ends are \\n or \\r\\n; the last one may lack its end."""
    lines = text.replace("\r\n", "\n").split("\n")
    return tuple(lines[:-1] if lines[-1] == "" else lines)


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The first thing that pydantic found wrong: its place, "a.0.b", empty for the whole, and what
    is wrong with it. Keys in the place are a stranger's: it is one line, cut short."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return one_line(place), first["msg"].removeprefix("Value error, ")


def escaped(text: str) -> str:
    """The text as a terminal may show it: control characters, which could steer it, are spelled out
    (\\x1b); line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str, length: int = REASON_LENGTH) -> str:
    """The text in one line of at most `length` characters.

    White space becomes single blanks. A longer text loses its middle, since messages of runtimes
    name the file first and the cause last.
    """
    if len(text) <= length and text.isprintable():
        return text
    return _cut(" ".join(_without_controls(text).split()), length)


def printable(text: str, length: int = REASON_LENGTH) -> str:
    """As `one_line`, with its blanks as they are: a text of another machine for a terminal.

    Control characters (escape sequences, line ends, marks that turn the direction of writing)
    become blanks, so that it can neither steer the terminal nor pass for lines of ours.
    """
    if len(text) <= length and text.isprintable():
        return text
    return _cut(_without_controls(text), length)


def _without_controls(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    head = (length - 3) // 2
    return f"{text[:head]} … {text[len(text) - (length - 3 - head) :]}"


def summary(beginning: str, reasons: list[str]) -> str:
    """`beginning` and the reasons in one line of at most REASON_LENGTH characters.

    Each reason gets an equal share of the space; shorter reasons leave the rest of theirs to longer
    ones.
    """
    left = REASON_LENGTH - len(beginning)
    shown: dict[int, str] = {}
    for rank, index in enumerate(sorted(range(len(reasons)), key=lambda i: len(reasons[i]))):
        share = left // (len(reasons) - rank) - len("; ")
        shown[index] = one_line(reasons[index], max(share, 20))
        left -= len(shown[index]) + len("; ")
    return one_line(beginning + "; ".join(shown[index] for index in range(len(reasons))))


def counted(number: float, thing: str) -> str:
    """A number with its noun: "1 image", "1,200 images", "0.5 minutes"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {thing}{'' if number == 1 else 's'}"

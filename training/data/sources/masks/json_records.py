"""The records of a large JSON document, one at a time, with their places in the file.

COCO's annotations of 118,000 images are 450 MB of JSON: read whole they take gigabytes. Here a
record is parsed when the reader passes it, and again when its image is drawn.
"""

import json
import re
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from serving.base.files import open_file
from training.errors import DataError

# Bytes that are read at a time.
_CHUNK = 1 << 20
# Bytes of one record, at most. A polygon of 200,000 points takes 4 MB.
MOST_BYTES = 16 << 20

# Bytes pass as Latin-1, so that a character is a byte and places are those of the file.
_ENCODING = "latin-1"
_BYTES = re.compile("[\x80-\xff]+")
_BLANKS = " \t\n\r"
_DECODER = json.JSONDecoder()


class Record(NamedTuple):
    """One object of a list at the top of the document.

    key: the list's name.
    value: the object, whose texts are still bytes in Latin-1; see `as_text`.
    start, end: its bytes in the file.
    """

    key: str
    value: dict[str, Any]
    start: int
    end: int


def as_text(value: object) -> str:
    """A text of a record in the file's own encoding, UTF-8. Characters that the file spells out
    (\\u00e9) are those already."""

    def decoded(run: re.Match[str]) -> str:
        try:
            return run[0].encode(_ENCODING).decode()
        except UnicodeDecodeError:
            return run[0]

    return _BYTES.sub(decoded, str(value))


def read_records(file: Path, places: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """The records at places (start, end) that `records` told. Raises DataError where the file has
    changed."""
    with open_file(file) as stream:
        for start, end in places:
            stream.seek(start)
            data = stream.read(end - start)
            try:
                yield dict(json.loads(data.decode(_ENCODING)))
            except (ValueError, TypeError, RecursionError) as error:
                raise DataError(f"{file}: changed since it was read") from error


def records(file: Path, keys: tuple[str, ...]) -> Iterator[Record]:
    """The objects of the lists of `keys` in the order of the file; all else is passed over.

    Raises DataError naming the file and the byte where it is no such document, or where one value
    has more than MOST_BYTES.
    """
    try:
        with open_file(file) as stream:
            yield from _Reader(file, stream).records(keys)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """A window on a document: text from byte `base` on."""

    def __init__(self, file: Path, stream: BufferedReader) -> None:
        self._file = file
        self._stream = stream
        self._base = 0
        self._text = ""
        self._at = 0

    def records(self, keys: tuple[str, ...]) -> Iterator[Record]:
        if self._peek() == "\xef":
            self._at += 3  # a byte-order mark
        self._expect("{")
        while self._peek() != "}":
            key = str(self._value())
            self._expect(":")
            if key in keys and self._peek() == "[":
                yield from self._list(key)
            else:
                self._pass_over()
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "}":
                raise self._fault("expected , or }")

    def _list(self, key: str) -> Iterator[Record]:
        self._at += 1
        while self._peek() != "]":
            start = self._base + self._at
            value = self._value()
            if not isinstance(value, dict):
                raise self._fault(f"{key}: expected a list of objects")
            yield Record(key, value, start, self._base + self._at)
            if self._peek() == ",":
                self._at += 1
            elif self._peek() != "]":
                raise self._fault("expected , or ]")
        self._at += 1

    def _pass_over(self) -> None:
        """Skips a value; of a list or an object each element, so that it may be of any length."""
        opening = self._peek()
        if opening not in ("[", "{"):
            self._value()
            return
        self._at += 1
        closing = {"[": "]", "{": "}"}[opening]
        while self._peek() != closing:
            self._value()
            if self._peek() in (",", ":"):
                self._at += 1
        self._at += 1

    def _value(self) -> Any:
        """The value at the place, of at most MOST_BYTES."""
        self._peek()
        wanted = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._fault("nested too deep") from None
            except ValueError:
                end = len(self._text)
            # A number at the end of the window may go on behind it.
            if end < len(self._text):
                self._at = end
                return value
            held = len(self._text) - self._at
            if held > MOST_BYTES:
                raise self._fault(f"one value of more than {MOST_BYTES >> 20} MiB, or no JSON")
            if not self._more(wanted):
                raise self._fault("not valid JSON, or cut short")
            wanted *= 2

    def _peek(self) -> str:
        """The next character that is no blank."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._more(_CHUNK):
                raise self._fault("the document is cut short")

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._fault(f"expected {character}")
        self._at += 1

    def _more(self, count: int) -> bool:
        """Moves the window on; False at the end of the file."""
        data = self._stream.read(count)
        self._text = self._text[self._at :] + data.decode(_ENCODING)
        self._base += self._at
        self._at = 0
        return bool(data)

    def _fault(self, what: str) -> DataError:
        return DataError(f"{self._file}: byte {self._base + self._at}: {what}")

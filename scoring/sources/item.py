"""One image of a source, and what every kind of source does."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol

# Bytes of the largest image file. Servers take as many in a message by default.
MOST_IMAGE_BYTES = 32 << 20
# Different endings of files that are passed over, of which the number is told.
_MOST_ENDINGS = 20


class Item(NamedTuple):
    """An image as its source lists it. Items sort by name.

    name: its path below the source, as the source spells it; any bytes.
    size: bytes of its file by the listing.
    changed: differs where the file has changed: time, ETag; empty where the source does not say.
    shard: the name of the tar file that holds it; empty for a file of its own.
    offset: of its first byte in the shard.
    """

    name: bytes
    size: int
    changed: str
    shard: bytes = b""
    offset: int = 0


def text_of(name: bytes) -> tuple[str, bool]:
    """A name as text, and whether the text is the name: bytes that are no UTF-8 become \\xff."""
    try:
        return name.decode(), True
    except UnicodeDecodeError:
        return name.decode(errors="backslashreplace"), False


class LeftOut:
    """Counts the files that are no images by their ending."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Counts a file."""
        _, dot, ending = name.rpartition(".")
        told = f".{ending.lower()}"[:16] if dot and ending.isalnum() else "no ending"
        if told not in self.counts and len(self.counts) >= _MOST_ENDINGS:
            told = "others"
        self.counts[told] += 1


class Source(Protocol):
    """A place with images. Threads may share one.

    address: the path or URL.
    reads: reads that are worth having under way at a time for a group of images: one for files that
        take microseconds each.
    left_out: files that `items` passed over.
    """

    address: str
    reads: int
    left_out: LeftOut

    def items(self) -> Iterator[Item]:
        """Every image below the source, in any order. Raises ScoringError where the source, or a
        folder in it, cannot be listed."""

    def read(self, item: Item, start: int, end: int) -> bytes:
        """Bytes of the file of an item. Raises ImageFault where that file cannot be read,
        ScoringError where the source cannot."""

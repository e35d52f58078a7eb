"""A source is listed in one order, in bounded memory, and compared with what it was."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring.errors import ScoringError
from scoring.sources import listing
from scoring.sources.folder import Folder
from scoring.sources.item import Item, LeftOut
from scoring.sources.listing import Listing, difference, take_listing


class Numbered:
    """A source of so many images, whose names come in an order of their own."""

    reads = 1
    address = "numbered"

    def __init__(self, count: int) -> None:
        self.left_out = LeftOut()
        self._count = count

    def items(self) -> Iterator[Item]:
        for number in range(self._count):
            yield Item(b"%08d.jpg" % (number * 7919 % self._count), 10, "then")

    def read(self, item: Item, start: int, end: int) -> bytes:
        raise AssertionError


def taken(source: Numbered | Folder, file: Path) -> Listing:
    return take_listing(source, file, lambda _: None)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and pieces of a few images."""
    for name, size in (("_RUN", 1000), ("_MERGED", 50), ("_PIECE", 512)):
        monkeypatch.setattr(listing, name, size)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 10_007])
def test_images_come_by_name_whatever_the_order_of_the_source(
    short: None, tmp_path: Path, count: int
) -> None:
    found = taken(Numbered(count), tmp_path / "listing.parquet")
    assert found.count == count
    assert [item.name for item in found] == [b"%08d.jpg" % i for i in range(count)]
    assert list(tmp_path.iterdir()) == [tmp_path / "listing.parquet"]


def test_memory_does_not_grow_with_the_source(short: None, tmp_path: Path) -> None:
    peaks = []
    for count in (4_001, 16_001):
        tracemalloc.start()
        taken(Numbered(count), tmp_path / "listing.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_blocks_cover_the_ranges_that_are_asked_for(short: None, tmp_path: Path) -> None:
    found = taken(Numbered(2000), tmp_path / "listing.parquet")
    blocks = list(found.blocks([(3, 5), (500, 530), (1990, 2000)], 16))
    numbers = [block.start + i for block in blocks for i in range(len(block.items))]
    assert numbers == [3, 4, *range(500, 530), *range(1990, 2000)]
    names = [item.name for block in blocks for item in block.items]
    assert names == [b"%08d.jpg" % number for number in numbers]
    assert max(len(block.items) for block in blocks) <= 16


def test_names_are_kept_byte_by_byte(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    names = [b"a\nb.jpg", b"\xff.jpg", b"\xc3\xa9.JPG", b"x\\y.png", b" .webp", b"a'\"`$(id).jpeg"]
    for name in names:
        with open(bytes(root) + b"/" + name, "wb"):  # noqa: PTH123
            pass
    found = taken(Folder(root, (".jpg", ".jpeg", ".png", ".webp")), tmp_path / "listing.parquet")
    assert [item.name for item in found] == sorted(names)


def test_an_image_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    source = Numbered(3)
    source.items = lambda: iter([Item(b"a.jpg", 1, ""), Item(b"a.jpg", 1, "")])  # type: ignore[method-assign]
    with pytest.raises(ScoringError, match=r"numbered: lists 'a\.jpg' twice"):
        taken(source, tmp_path / "listing.parquet")


A, B = Item(b"a.jpg", 1, "1"), Item(b"b.jpg", 1, "1")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ([A, B], ""),
        ([A], "'b.jpg' is gone"),
        ([B], "'a.jpg' is gone"),
        ([A, Item(b"aa.jpg", 1, "1"), B], "'aa.jpg' is new"),
        ([A, B, Item(b"c.jpg", 1, "1")], "'c.jpg' is new"),
        ([A, B._replace(size=2)], "'b.jpg' has 2 bytes, it had 1"),
        ([A, B._replace(changed="2")], "'b.jpg' was written anew"),
    ],
)
def test_the_first_difference_is_told(now: list[Item], reason: str) -> None:
    assert difference([A, B], now) == reason

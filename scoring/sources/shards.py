"""Images in the tar files of another source, as WebDataset has them."""

from collections.abc import Iterator

from scoring.errors import ImageFault, ScoringError
from scoring.sources.item import Item, LeftOut, Source
from serving.base.folders import IMAGE_SUFFIXES, is_passed_over
from serving.base.storage.messages import StorageError
from serving.base.storage.tar import Read, members

SHARD_SUFFIX = ".tar"
# Bytes of a shard that are read at a time for its headers. More need fewer requests, fewer read
# less of large images.
_STRETCH = 1 << 20
# Endings of labels and masks, which WebDataset has beside each image: they are passed over.
_LABELS = (".cls", ".json", ".txt", ".seg.png", ".mask.png")


class Shards:
    """The images in the tar files of a source. An image's name is that of its shard and its own."""

    def __init__(self, files: Source) -> None:
        self.address = files.address
        self.reads = files.reads
        self.left_out = LeftOut()
        self._files = files

    def items(self) -> Iterator[Item]:
        """Every image of every shard, by the headers."""
        for shard in self._files.items():
            shown = f"{self.address}/{shard.name.decode(errors='backslashreplace')}"
            try:
                for member in members(_ahead(self._files, shard), shard.size, shown):
                    *_, name = member.name.rpartition("/")
                    if is_passed_over(name) or name.endswith(_LABELS):
                        continue
                    if not name.lower().endswith(IMAGE_SUFFIXES):
                        self.left_out.add(name)
                        continue
                    full = b"%b/%b" % (shard.name, member.name.encode(errors="surrogatepass"))
                    yield Item(full, member.size, shard.changed, shard.name, member.offset)
            except (StorageError, ImageFault) as error:
                raise ScoringError(str(error)) from error

    def read(self, item: Item, start: int, end: int) -> bytes:
        """`Source.read`."""
        return self._files.read(item, start, end)


def _ahead(files: Source, shard: Item) -> Read:
    """Reads of a shard in ascending order, a stretch at a time."""
    held, first = b"", 0

    def read(start: int, end: int) -> bytes:
        nonlocal held, first
        if not first <= start <= end <= first + len(held):
            first = start
            held = files.read(shard, start, min(shard.size, max(end, start + _STRETCH)))
        return held[start - first : end - first]

    return read

"""Files and folders of stores, as listings tell of them."""

from dataclasses import dataclass
from typing import Any

from serving.base.storage.address import last_part

# The marks of change that stores give, the best first.
_MARKS = (
    "ETag", "etag", "generation", "Last-Modified", "LastModified", "last_modified", "mtime",
    "created",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A file or folder of a listing.

    size: bytes; 0 for folders and, in the list of a folder, where the store does not say.
    changed: whatever the store gives that changes with the content: ETag, time, generation.
    problem: in a tree, why it cannot be read, though the store answers; empty where it can.
    """

    address: str
    is_folder: bool
    size: int
    changed: str
    problem: str = ""

    @property
    def name(self) -> str:
        return last_part(self.address)


def entry_of(address: str, info: dict[str, Any]) -> Entry:
    """Of what fsspec tells of an address."""
    is_folder = info.get("type") == "directory" or address.endswith("/")
    changed = next((str(info[key]) for key in _MARKS if info.get(key)), "")
    size = 0 if is_folder else max(0, int(info.get("size") or 0))
    return Entry(address, is_folder, size, changed)

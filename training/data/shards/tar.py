"""The members of a tar file; its faults are DataErrors."""

from collections.abc import Iterator

from serving.base.storage import tar
from serving.base.storage.messages import StorageError
from serving.base.storage.tar import BLOCK, Member, Read, checked_size
from training.errors import DataError

__all__ = ["BLOCK", "Member", "Read", "checked_size", "members"]


def members(read: Read, total: int, shown: str) -> Iterator[Member]:
    """`serving.base.storage.tar.members`. Raises DataError."""
    try:
        yield from tar.members(read, total, shown)
    except StorageError as error:
        raise DataError(str(error)) from error

"""SHA-256 of files, read once for as long as they stay the same."""

import hashlib
from functools import lru_cache
from pathlib import Path

from serving.base.files import open_file


def sha256(file: Path) -> str:
    """Hex digits of a file's content. Raises OSError."""
    stat = file.stat()
    return _sha256(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=256)
def _sha256(file: Path, stamp: tuple[int, ...]) -> str:
    """`stamp` makes a changed file a new key."""
    with open_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

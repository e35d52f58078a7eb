"""Files that others wrote: names that stay in their folder, and reads that end.

Everything here raises OSError, whose `strerror` says what is wrong.
"""

import contextlib
import errno
import hashlib
import os
import stat
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

# Bytes of a file's name on every file system in use.
_NAME_BYTES = 255
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Bytes of a text that is read whole: a manifest, a list of classes. A million names fit.
TEXT_BYTES = 16 << 20


def is_plain_name(name: str) -> bool:
    """Whether a text can name one entry of a folder, and nothing outside of it, on every system:
    printable, no separator, not `.` or `..`, 255 bytes in UTF-8 at most."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()  # a surrogate, which has no UTF-8, is not
        and not {"/", "\\"} & set(name)
        and len(name.encode()) <= _NAME_BYTES
    )


def find_file(folder: Path, name: str, *homes: Path) -> Path:
    """The place of a regular file in `folder`, with links resolved.

    homes: the folders in which links may end, `folder` itself by default. They are resolved too, so
        that a whole folder may be a link; Kubernetes mounts files as links to a folder beside them.
    """
    path = folder / name
    if not is_plain_name(name):
        raise OSError(errno.EINVAL, "is no plain name of a file", str(path))
    place = os.path.realpath(path, strict=True)
    if not any(Path(place).is_relative_to(os.path.realpath(home)) for home in homes or (folder,)):
        raise OSError(errno.EXDEV, "is a link that leads out of its folder", str(path))
    _require_file(os.stat(place), path)  # noqa: PTH116 - the path is a text here
    return Path(place)


def open_file(path: Path) -> BufferedReader:
    """Opens a regular file for reading. Nothing else is opened: a pipe would wait for a writer, and
    a device may act."""
    _require_file(path.stat(), path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_file(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, limit: int = TEXT_BYTES, *, closed: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes. closed: neither its group nor others
    may write it."""
    with open_file(path) as stream:
        found = os.fstat(stream.fileno())
        if closed and found.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(found.st_mode)
            raise OSError(errno.EPERM, f"may be written by others (mode {mode:o})", str(path))
        size = found.st_size
        # As many as it has: Python takes the memory of all that are asked for.
        content = b"" if size > limit else stream.read(size + 1)
        if len(content) > size:  # it grows
            content += stream.read(limit + 1 - len(content))
    if max(size, len(content)) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit:,} bytes", str(path))
    return content


def sha256(file: Path) -> str:
    """Hex digits of a file's content, read once for as long as the file stays the same."""
    found = file.stat()
    return _sha256(file, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=256)
def _sha256(file: Path, stamp: tuple[int, ...]) -> str:
    """`stamp` makes a changed file a new key."""
    with open_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def own_folder(path: Path) -> Path:
    """A folder that nobody else may write, for files that are run later: `path`, which is made
    where it is missing; where others may write there, a folder of this user's own in it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_closed(path.stat()):
        return path
    own = path / f"user-{os.geteuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if not _is_closed(own.lstat()):
        raise PermissionError(errno.EPERM, "is another user's, or others may write there", str(own))
    return own


def _is_closed(found: os.stat_result) -> bool:
    """Whether only this user, or root, may write into a folder."""
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid in (0, os.geteuid())
        and not found.st_mode & _OTHERS_WRITE
    )


def _require_file(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one step: whoever interrupts it leaves the former file, or none. What is no
    regular file, such as /dev/stdout, is written to as it is. An OSError names `path`."""
    place = Path(os.path.realpath(path))
    former = place.stat() if place.exists() else None
    if former is not None and not stat.S_ISREG(former.st_mode):
        place.write_bytes(content)
        return
    partial = place.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        if former is not None:
            partial.chmod(stat.S_IMODE(former.st_mode))
        partial.replace(place)
    except BaseException as error:
        with contextlib.suppress(OSError):  # no folder, or no right: the first error tells
            partial.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise

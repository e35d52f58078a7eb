"""The members of a tar file, by name, offset and size.

Nothing is unpacked, so that names lead nowhere. tarfile is not used: it takes the memory that a
header claims, keeps every member that it has seen, and is ten times slower.
Format: POSIX.1-2001 pax and ustar, and GNU's long names and numbers.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from serving.base.storage.messages import StorageError

BLOCK = 512
# Longest extended header (pax records, GNU's long names). Those of real files have some 100 bytes.
_MOST_EXTENDED = 64 << 10
# Extended headers before one member: pax, a long name and a long link at most.
_MOST_HEADERS = 4
_SHOWN_NAME = 100
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}

Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A regular file in a tar file.

    header: offset of its own header.
    offset: of its first byte; size: in bytes.
    """

    name: str
    header: int
    offset: int
    size: int


def members(read: Read, total: int, shown: str) -> Iterator[Member]:
    """The regular files of a tar file of `total` bytes, which `read(start, end)` gives; folders are
    passed over. `shown` begins every message.

    Raises StorageError where the file is no plain tar file, is cut off, or holds a link, a device,
    a sparse file or an extended header of more than 64 KiB.
    """
    at, extended, headers = 0, dict[str, str](), 0
    while at + BLOCK <= total:
        block = read(at, at + BLOCK)
        if not any(block):
            return
        kind, size = block[156:157], _checked_size(block, at, shown)
        if kind in (b"x", b"g", b"L", b"K"):
            headers += 1
            if size > _MOST_EXTENDED or headers > _MOST_HEADERS:
                raise StorageError(
                    f"{shown}: byte {at:,}: extended headers of {size:,} bytes or more than "
                    f"{_MOST_HEADERS} in a row; expected at most {_MOST_EXTENDED:,} bytes"
                )
            start = at + BLOCK
            _require_inside(start + size, total, "an extended header", shown)
            extended |= _extended(kind, read(start, start + size), at, shown)
            at = start + _padded(size)
            continue
        name = extended.get("path") or _name(block)
        if "size" in extended:
            size = _decimal(extended["size"], at, shown)
        named = name if len(name) <= _SHOWN_NAME else name[: _SHOWN_NAME - 3] + "..."
        if kind in _REFUSED or any(key.startswith("GNU.sparse") for key in extended):
            what = _REFUSED.get(kind, _REFUSED[b"S"])
            raise StorageError(f"{shown}: {named} is {what}; expected regular files")
        if kind in _FILES and not name.endswith("/"):
            _require_inside(at + BLOCK + size, total, named, shown)
            yield Member(name, at, at + BLOCK, size)
        elif kind not in (*_FILES, _FOLDER):
            raise StorageError(f"{shown}: {named} is of the unknown kind {kind!r}")
        # The size of a folder is that of its content, which does not follow.
        at += BLOCK + (0 if kind == _FOLDER else _padded(size))
        extended, headers = {}, 0
    if at == 0 or at < total or headers:
        raise StorageError(f"{shown}: is cut off at byte {total:,}, or no tar file")


def checked_size(block: bytes) -> int | None:
    """The size of the member that a header of 512 bytes describes; None where it is no header."""
    try:
        return _checked_size(block, 0, "")
    except StorageError:
        return None


def _checked_size(block: bytes, at: int, shown: str) -> int:
    stored = _number(block[148:156])
    if stored != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        if at == 0 and block[:2] == b"\x1f\x8b":
            raise StorageError(
                f"{shown}: is compressed; expected a plain tar file: gunzip it first"
            )
        raise StorageError(
            f"{shown}: byte {at:,}: no tar header; the file is damaged or no tar file"
        )
    size = _number(block[124:136])
    if size is None or size < 0:
        raise StorageError(f"{shown}: byte {at:,}: a member without a size")
    return size


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's big-endian number after a byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(0x30 <= digit <= 0x37 for digit in digits):
        return None
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    return name.decode(errors="replace")


def _extended(kind: bytes, body: bytes, at: int, shown: str) -> dict[str, str]:
    if kind == b"L":
        return {"path": body.rstrip(b"\0").decode(errors="replace")}
    if kind == b"K":
        return {}
    records: dict[str, str] = {}
    while body.strip(b"\0"):
        length, space, _ = body[:20].partition(b" ")
        end = int(length) if space and length.isdigit() else 0
        key, equals, value = body[len(length) + 1 : end - 1].partition(b"=")
        if not equals or body[end - 1 : end] != b"\n":
            raise StorageError(f"{shown}: byte {at:,}: a pax header that cannot be read")
        records[key.decode(errors="replace")] = value.decode(errors="replace")
        body = body[end:]
    if kind == b"g":
        if "size" in records or "path" in records:
            raise StorageError(f"{shown}: byte {at:,}: a global header names a size or a path")
        return {}
    return records


def _decimal(text: str, at: int, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise StorageError(f"{shown}: byte {at:,}: a pax header with a size that is no number")
    return int(text)


def _require_inside(end: int, total: int, named: str, shown: str) -> None:
    if end > total:
        raise StorageError(
            f"{shown}: is cut off: {named} ends at byte {end:,}, the file at byte {total:,}"
        )


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK

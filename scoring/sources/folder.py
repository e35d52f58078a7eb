"""Images in a folder of this machine."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from scoring.errors import ImageFault, ScoringError
from scoring.sources.item import Item, LeftOut, text_of
from serving.base.errors import quoted
from serving.base.files import open_file
from serving.base.folders import is_passed_over

# Errors of this machine, and not of one file: too many open files, no memory, a share that is gone.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN)


class Folder:
    """The files below a folder with certain endings. Links to folders are followed at the folder
    alone; hidden entries, and those that systems leave, are passed over.

    Names are bytes all along: those of Linux need not be text.
    """

    reads = 1

    def __init__(self, root: Path, endings: tuple[str, ...]) -> None:
        if not root.is_dir():
            raise ScoringError(f"{quoted(str(root))}: expected a folder of images or a URL")
        self._root = os.fsencode(root.resolve())
        self.address = text_of(self._root)[0]
        self.left_out = LeftOut()
        self._endings = endings

    def items(self) -> Iterator[Item]:
        """Every file, folder by folder. Folders that are still to be listed wait in memory, some
        100 bytes each."""
        waiting = [b""]
        while waiting:
            place = waiting.pop()
            try:
                with os.scandir(_joined(self._root, place)) as entries:
                    for entry in entries:
                        name = _joined(place, entry.name)
                        text = os.fsdecode(entry.name)
                        if is_passed_over(text):
                            continue
                        if entry.is_dir():
                            if not entry.is_symlink():
                                waiting.append(name)
                        elif text.lower().endswith(self._endings):
                            yield _item(name, entry)
                        else:
                            self.left_out.add(text)
            except OSError as error:
                shown = quoted(os.fsdecode(_joined(self._root, place)))
                raise ScoringError(f"{shown}: cannot be listed: {error.strerror}") from error

    def read(self, item: Item, start: int, end: int) -> bytes:
        """`Source.read`; a file that has become shorter gives what is left of it."""
        path = Path(os.fsdecode(_joined(self._root, item.shard or item.name)))
        try:
            with open_file(path) as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            if error.errno in _OF_THE_MACHINE or not os.path.isdir(self._root):  # noqa: PTH112
                raise ScoringError(
                    f"{quoted(self.address)}: cannot be read any more: {error.strerror}"
                ) from error
            raise ImageFault(f"cannot be read: {error.strerror}") from error


def _joined(folder: bytes, name: bytes) -> bytes:
    """pathlib knows no paths of bytes."""
    return os.path.join(folder, name)  # noqa: PTH118


def _item(name: bytes, entry: "os.DirEntry[bytes]") -> Item:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere; to read it will say so
        return Item(name, 0, "")
    return Item(name, found.st_size, str(found.st_mtime_ns))

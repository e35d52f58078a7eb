"""Files of the operator that are read again when they change."""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from serving.base.counting.sums import Tally
from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8, one_line
from serving.server.config import StartError

logger = logging.getLogger(__name__)

# Bytes of a file. A line of an API key takes 100: 10,000 fit.
_FILE_BYTES = 1 << 20
# Files of a folder that is followed.
_MAX_FILES = 100
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

Content = TypeVar("Content")


class BadFile(Exception):
    """A file whose content cannot be used; the text names the place in it."""


class Followed(Generic[Content]):
    """The content of a file as it was when the file was last in order.

    content: that.
    changed: called with each new content; by default nothing is.
    """

    def __init__(
        self,
        flag: str,
        path: Path,
        parse: Callable[[str], Content],
        failures: Tally,
        join: Callable[[Sequence[Content]], Content] | None = None,
    ) -> None:
        """flag: by which the operator gave it. failures: counts changes that cannot be used, by
        flag. join: it may be a folder, and this is the content of its files together. Raises
        StartError where it cannot be used."""
        self._flag = flag
        self._path = path
        self._parse = parse
        self._failures = failures
        self._join = join
        self.changed: Callable[[Content], None] = lambda _: None
        # The file that was read last, and the one that was seen last.
        self._stamp = self._seen = self._look()
        try:
            self.content = read_checked(path, parse, join)
        except BadFile as error:
            raise StartError(f"{flag}: {error}") from error

    def _look(self) -> tuple[tuple[str | int, ...], ...]:
        """Device, inode, size and times of each file; a link that leads elsewhere now shows in them
        too."""
        try:
            files = [self._path] if self._join is None else _files(self._path)
            found = [(file, file.stat()) for file in files]
        except (OSError, BadFile):
            return ()
        return tuple(
            (file.name, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
            for file, at in found
        )

    def follow(self) -> Callable[[], None] | None:
        """Looks at the file; may block. Returns the step that takes its content over, for the event
        loop; None where nothing is new. A file that cannot be used changes nothing: it is logged
        and counted once.

        A change is read at the next look, and only where the file stood still in between: half of a
        policy may be in order and say something else.
        """
        stamp, seen = self._look(), self._seen
        self._seen = stamp
        if stamp == self._stamp or stamp != seen:
            return None
        self._stamp = stamp
        try:
            content = read_checked(self._path, self._parse, self._join)
        except BadFile as error:
            self._failures.count(self._flag)
            about = {"flag": self._flag, "reason": one_line(str(error))}
            logger.error("the file cannot be used, its last good content stays", extra=about)
            return None

        def take() -> None:
            self.content = content
            self.changed(content)
            logger.info("file read again", extra={"flag": self._flag})

        return take


def read_checked(
    path: Path,
    parse: Callable[[str], Content],
    join: Callable[[Sequence[Content]], Content] | None = None,
) -> Content:
    """The parsed text of a regular file that nobody else may write. join: it may be a folder, and
    this is the content of its files together. Raises BadFile, which names the file."""
    if join is None:
        return _read(path, parse)
    with _refusing(path):
        return join([_read(file, parse) for file in _files(path)])


def _read(file: Path, parse: Callable[[str], Content]) -> Content:
    with _refusing(file):
        return parse(decode_utf8(file, read_file(file, _FILE_BYTES, closed=True)))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Raises BadFile, which names the file, for whatever a parser did not foresee too: that is the
    file's fault, and ends nobody who follows it."""
    try:
        yield
    except OSError as error:
        raise BadFile(f"{error.filename or path}: {error.strerror}") from error
    except NotText as error:
        raise BadFile(str(error)) from error
    except Exception as error:
        text = str(error) if isinstance(error, BadFile) else f"{type(error).__name__}: {error}"
        raise BadFile(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _files(path: Path) -> list[Path]:
    """The file, or the files of a folder by name, without hidden ones: Kubernetes keeps its own
    there. Raises OSError, and BadFile for a folder to which others may add files."""
    if not path.is_dir():
        return [path]
    # A mounted secret shows a mode that lets everybody write, and nobody can.
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        mode = path.stat().st_mode
        if mode & _OTHERS_WRITE:
            raise BadFile(f"{path} may be written by others (mode {stat.S_IMODE(mode):o})")
    files = [f for f in path.iterdir() if not f.name.startswith(".") and not f.is_dir()]
    if len(files) > _MAX_FILES:
        raise BadFile(f"{path}: expected at most {_MAX_FILES} files, got {len(files)}")
    return sorted(files)

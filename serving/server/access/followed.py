"""Files of the operator that are read again when they change."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from serving.base.counting.sums import Tally
from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8, one_line
from serving.server.config import StartError

logger = logging.getLogger(__name__)

# Bytes of a file. A line of an API key takes 100: 10,000 fit.
_FILE_BYTES = 1 << 20
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
        self, flag: str, path: Path, parse: Callable[[str], Content], failures: Tally
    ) -> None:
        """flag: by which the operator gave it. failures: counts changes that cannot be used, by
        flag. Raises StartError where the file cannot be used."""
        self._flag = flag
        self._path = path
        self._parse = parse
        self._failures = failures
        self.changed: Callable[[Content], None] = lambda _: None
        self._stamp = self._look()
        try:
            self.content = read_checked(path, parse)
        except BadFile as error:
            raise StartError(f"{flag}: {error}") from error

    def _look(self) -> tuple[int, ...]:
        """Device, inode, size and times; a link that leads elsewhere now shows in them too."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def follow(self) -> Callable[[], None] | None:
        """Reads the file where it has changed; may block. Returns the step that takes its content
        over, for the event loop; None where nothing is new. A file that cannot be used changes
        nothing: it is logged and counted once."""
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            content = read_checked(self._path, self._parse)
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


def read_checked(path: Path, parse: Callable[[str], Content]) -> Content:
    """The parsed text of a regular file that nobody else may write. Raises BadFile."""
    try:
        content = read_file(path, _FILE_BYTES)
        mode = os.stat(path).st_mode  # noqa: PTH116 - as the call above has it
        if mode & _OTHERS_WRITE:
            raise BadFile(f"{path} may be written by others (mode {stat.S_IMODE(mode):o})")
        return parse(decode_utf8(path, content))
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except NotText as error:
        raise BadFile(str(error)) from error
    except Exception as error:
        # Whatever a parser did not foresee is the file's fault, and ends nobody who follows it.
        text = str(error) if isinstance(error, BadFile) else f"{type(error).__name__}: {error}"
        raise BadFile(text if text.startswith(str(path)) else f"{path}: {text}") from error

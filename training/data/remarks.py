"""Oddities of a data set that its files show only when they are read."""

import threading
from collections.abc import Sequence

# Different oddities that are kept: a hostile set could hold as many as pixels.
_MOST = 100


class Remarks:
    """Counts the files of each oddity, while threads read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, None]] = {}

    def add(self, text: str, file: str) -> None:
        """Notes that an oddity, told as a sentence, is in a file."""
        with self._lock:
            if text in self._files or len(self._files) < _MOST:
                self._files.setdefault(text, {})[file] = None

    def lines(self) -> Sequence[str]:
        """Each oddity with the number of its files and the first, the most frequent first."""
        with self._lock:
            found = sorted(self._files.items(), key=lambda pair: -len(pair[1]))
            return [
                f"{text} ({len(files)} {'file' if len(files) == 1 else 'files'}, "
                f"first {min(files)})"
                for text, files in found
            ]

    def __reduce__(self) -> tuple[type["Remarks"], tuple[()]]:
        # A copy in another process reads files of its own.
        return Remarks, ()

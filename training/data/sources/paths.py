"""Paths that a listing names."""

import os
from pathlib import Path

from serving.base.errors import quoted
from training.errors import DataError

# Characters of a path; systems take some thousand.
_MOST = 1000


def is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8, without a zero: JSON's \\ud800 cannot."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def place_below(root: Path, folder: Path, name: object) -> Path:
    """The file that `name`, a path relative to `folder`, stands for; Windows' separators count too.

    Raises DataError where it is no text that a path can have, or leads out of `root`. Links are not
    resolved: a folder of links to images is a common way to make a selection.
    """
    if not isinstance(name, str) or not name.strip() or not is_text(name) or len(name) > _MOST:
        raise DataError(f"expected the path of a file, got {quoted(name)}")
    name = name.replace("\\", "/")
    if not name.startswith("/") and ".." not in name:
        return folder / name
    base = os.path.abspath(root)  # noqa: PTH100 - without resolving links
    place = os.path.normpath(os.path.join(os.path.abspath(folder), name))  # noqa: PTH100, PTH118
    if not place.startswith(base.rstrip("/") + "/"):
        raise DataError(f"{quoted(name)} leads out of {root}")
    return root / os.path.relpath(place, base)

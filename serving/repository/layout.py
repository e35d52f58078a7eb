"""The model repository on disk: NAME/config.pbtxt and NAME/<version>/, and their changes.

Reads names, sizes and times; loads nothing. A folder that cannot be read, or that would take long
to, is a model with a problem, and no other model is the worse for it.
"""

import errno
import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.base.errors import quoted
from serving.base.files import is_plain_name
from serving.repository.model_config import CONFIG_FILE

# One entry a file: name in the folder, size, mtime and ctime in ns, inode. Size and mtime alone
# would miss a file that is replaced by one of the same size with the times of its copy.
Stamp = tuple[tuple[str, int, int, int, int], ...]

# Entries of the repository, and of one folder of a model: with so many, a scan takes half a second.
# They are looked at in every poll.
_MAX_MODELS = 100_000
_MAX_ENTRIES = 10_000
# Versions of a model; all of them may be served.
MAX_VERSIONS = 1000

NO_MODEL = f"no model: neither {CONFIG_FILE} nor a numbered version folder"


@dataclass(frozen=True)
class ModelFolder:
    """One folder of the repository.

    config_stamp: the stamp of the files beside the versions (config, labels).
    versions: the stamp of each version folder, ascending.
    problem: why it cannot be read or is no model; empty for a model.
    stale: why it is not the newest of a model behind a URL; empty where it is.
    """

    name: str
    path: Path
    config_stamp: Stamp = ()
    versions: dict[int, Stamp] = field(default_factory=dict)
    problem: str = ""
    stale: str = ""

    @property
    def is_model(self) -> bool:
        """False for a folder that holds something else, as `lost+found` does."""
        return self.problem != NO_MODEL


@dataclass(frozen=True)
class Changes:
    """Names of the models that were added, removed, or whose config or versions changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def compare(before: Mapping[str, ModelFolder], after: Mapping[str, ModelFolder]) -> Changes:
    """The difference between two scans."""
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(n for n in after if n in before and after[n] != before[n]),
    )


def scan(repository: Path) -> dict[str, ModelFolder]:
    """Every folder of the repository by name, in order. Files beside the folders are passed over.

    A folder that cannot be read, or is no model, is listed with its problem; so is one whose name
    no call can carry, with that name escaped. Names that start with a dot or an underscore are
    passed over, since publishing builds there. Raises OSError where the repository itself cannot be
    read.
    """
    folders = sorted(
        path
        for path in _children(repository, _MAX_MODELS)
        if not path.name.startswith((".", "_")) and (is_folder(path) or _leads_nowhere(path))
    )
    scanned = (scan_model(path) for path in folders)
    return {folder.name: folder for folder in scanned}


def can_be_folder(name: str) -> bool:
    """Whether a model's folder may have this name."""
    return is_plain_name(name) and not name.startswith(".")


def scan_model(path: Path) -> ModelFolder:
    """One model folder. Its versions are the folders whose names are numbers from 1, without
    leading zeros."""
    if not can_be_folder(path.name):
        name = quoted(path.name)[1:-1]
        problem = f"{name}: no name for a model: expected printable characters without a backslash"
        return ModelFolder(name, path, problem=problem)
    versions: dict[int, Stamp] = {}
    beside: list[Path] = []
    try:
        for child in sorted(_children(path, _MAX_ENTRIES)):
            if is_version(child.name) and (is_folder(child) or _leads_nowhere(child)):
                versions[int(child.name)] = _version_stamp(child)
            elif not is_folder(child):
                beside.append(child)
    except OSError as error:
        return ModelFolder(path.name, path, problem=f"{path}: cannot be read: {error.strerror}")
    if len(versions) > MAX_VERSIONS:
        problem = f"{path}: expected at most {MAX_VERSIONS} versions, got {len(versions)}"
        return ModelFolder(path.name, path, problem=problem)
    if not versions and not any(file.name == CONFIG_FILE for file in beside):
        return ModelFolder(path.name, path, problem=NO_MODEL)
    # Hidden files are left out: editors keep their own beside an edited file.
    shown = [file for file in beside if not file.name.startswith(".")]
    return ModelFolder(path.name, path, _stamp(shown, path), dict(sorted(versions.items())))


def digest(stamps: Sequence[Stamp]) -> str:
    """A short text that differs where stamps differ."""
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]


def is_version(name: str) -> bool:
    """Whether the name of a folder is the number of a version: from 1, without leading zeros."""
    # No version policy can name more than 18 digits, and Python refuses to convert thousands.
    return name.isascii() and name.isdecimal() and not name.startswith("0") and len(name) <= 18


def _children(folder: Path, most: int) -> list[Path]:
    """The entries of a folder. Raises OSError, also where there are more than `most`."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in itertools.islice(entries, most + 1)]
    if len(found) > most:
        raise OSError(errno.EFBIG, f"has more than {most:,} entries", str(folder))
    return found


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder."""
    try:
        return path.is_dir()
    except OSError:  # a link into a folder that may not be entered
        return False


def _leads_nowhere(path: Path) -> bool:
    """Whether a path is a link in a circle, to nothing, or into a folder that may not be entered.
    It is taken for a folder, so that its owner learns why it is none."""
    try:
        path.stat()
    except OSError:
        return path.is_symlink()
    return False


def _version_stamp(folder: Path) -> Stamp:
    """The stamp of the files of a version, which lie in its folder itself. One that cannot be read
    has none; loading says why."""
    try:
        return _stamp(sorted(_children(folder, _MAX_ENTRIES)), folder)
    except OSError:
        return ()


def _stamp(files: Iterable[Path], base: Path) -> Stamp:
    stamp = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        name = str(file.relative_to(base))
        stamp.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    return tuple(stamp)

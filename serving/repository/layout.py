"""The model repository on disk: NAME/config.pbtxt and NAME/<version>/, and their changes.

Reads names, sizes and times; loads nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.repository.model_config import CONFIG_FILE

# One entry a file: name below the folder, size, mtime and ctime in ns, inode. Size and mtime alone
# would miss a file that is replaced by one of the same size with the times of its copy.
Stamp = tuple[tuple[str, int, int, int, int], ...]

# Bytes of a file's name on every file system in use.
_NAME_BYTES = 255

NO_MODEL = f"no model: neither {CONFIG_FILE} nor a numbered version folder"


@dataclass(frozen=True)
class ModelFolder:
    """One folder of the repository.

    config_stamp: the stamp of the files beside the versions (config, labels).
    versions: the stamp of each version folder, ascending.
    problem: why it cannot be read or is no model; empty for a model.
    """

    name: str
    path: Path
    config_stamp: Stamp = ()
    versions: dict[int, Stamp] = field(default_factory=dict)
    problem: str = ""

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

    A folder that cannot be read, or is no model, is listed with its problem. Raises OSError where
    the repository itself cannot be read.
    """
    return {name: scan_model(repository / name) for name in model_names(repository)}


def model_names(repository: Path) -> list[str]:
    """The folders that `scan` looks into, in order. Raises OSError.

    Names that start with a dot or an underscore are passed over (publishing builds there), and so
    are names that are not UTF-8, which no wire can carry.
    """
    return sorted(
        path.name
        for path in repository.iterdir()
        if not path.name.startswith((".", "_")) and _is_utf8(path.name) and _is_folder(path)
    )


def can_be_folder(name: str) -> bool:
    """Whether a model's folder may have this name."""
    return (
        _is_utf8(name)
        and 0 < len(name.encode()) <= _NAME_BYTES
        and not name.startswith(".")
        and "/" not in name
        and "\0" not in name
    )


def scan_model(path: Path) -> ModelFolder:
    """One model folder. Its versions are the folders whose names are numbers from 1, without
    leading zeros."""
    versions: dict[int, Stamp] = {}
    beside: list[Path] = []
    try:
        for child in sorted(path.iterdir()):
            if not _is_folder(child):
                beside.append(child)
            elif _is_version(child.name):
                versions[int(child.name)] = _stamp(_below(child), child)
    except OSError as error:
        return ModelFolder(path.name, path, problem=f"{path}: cannot be read: {error.strerror}")
    if not versions and not any(file.name == CONFIG_FILE for file in beside):
        return ModelFolder(path.name, path, problem=NO_MODEL)
    # Hidden files are left out: editors keep their own beside an edited file.
    shown = [file for file in beside if not file.name.startswith(".")]
    return ModelFolder(path.name, path, _stamp(shown, path), dict(sorted(versions.items())))


def _is_version(name: str) -> bool:
    # No version policy can name more than 18 digits, and Python refuses to convert thousands.
    return name.isascii() and name.isdecimal() and not name.startswith("0") and len(name) <= 18


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link into a folder that may not be entered
        return False


def _below(folder: Path) -> Iterator[Path]:
    """Every path below a version folder, in order; a folder that cannot be read has none."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return
    for child in children:
        yield child
        if _is_folder(child) and not child.is_symlink():
            yield from _below(child)


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

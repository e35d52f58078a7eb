"""NAME/config.pbtxt and NAME/<version>/: which models and versions are on disk."""

from dataclasses import dataclass
from pathlib import Path

from serving.repository.model_config import CONFIG_FILE

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelFolder:
    """One model on disk. A stamp changes when any file below it does (name, size, time)."""

    name: str
    path: Path
    config_stamp: Stamp
    versions: dict[int, Stamp]


def scan(repository: Path) -> dict[str, ModelFolder]:
    """Every folder of the repository by name. A name that starts with a dot is no model: publishing
    builds there. Files beside the folders are passed over.

    Raises OSError where the repository itself cannot be read.
    """
    return {name: scan_model(repository / name) for name in model_names(repository)}


def model_names(repository: Path) -> list[str]:
    """The folders that `scan` takes for models, in order. Raises OSError."""
    return sorted(
        path.name
        for path in repository.iterdir()
        if path.is_dir() and not path.name.startswith((".", "_"))
    )


def scan_model(path: Path) -> ModelFolder:
    """One model folder; numbered folders are its versions (0 and names like 01 are not)."""
    versions = {
        int(child.name): _stamp(sorted(child.rglob("*")), child)
        for child in path.iterdir()
        if child.is_dir() and child.name.isdecimal() and not child.name.startswith("0")
    }
    beside = [p for p in sorted(path.iterdir()) if p.name == CONFIG_FILE or p.suffix == ".txt"]
    return ModelFolder(path.name, path, _stamp(beside, path), dict(sorted(versions.items())))


def _stamp(files: list[Path], base: Path) -> Stamp:
    stamp = []
    for file in files:
        try:
            stat = file.stat()
        except FileNotFoundError:
            continue
        stamp.append((str(file.relative_to(base)), stat.st_size, stat.st_mtime_ns))
    return tuple(stamp)

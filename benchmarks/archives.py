"""The real data that benchmarks use: archives beside the project, unpacked once."""

import sys
import tarfile
from pathlib import Path

ARCHIVES = Path("../shared/data")
FOLDER = Path("runs/data")


def missing(name: str) -> str | None:
    """Why an archive cannot be had here; None where it can."""
    archive = ARCHIVES / f"{name}.tar.xz"
    if (FOLDER / name).is_dir() or archive.exists():
        return None
    return f"{archive} is not there; put its content into {FOLDER / name}"


def extracted(name: str) -> Path:
    """The folder of an archive, unpacked where needed. Ends the program, with the reason, where
    neither folder nor archive exists."""
    if reason := missing(name):
        sys.exit(reason)
    folder = FOLDER / name
    if not folder.is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tarfile.open(ARCHIVES / f"{name}.tar.xz") as opened:
            opened.extractall(FOLDER, filter="data")
    return folder

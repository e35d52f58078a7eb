"""The real data that benchmarks use: archives beside the project, unpacked once."""

import sys
import tarfile
from pathlib import Path

ARCHIVES = Path("../shared/data")
FOLDER = Path("runs/data")


def extracted(name: str) -> Path:
    """The folder of an archive, unpacked where needed. Ends the program, with the reason, where
    neither folder nor archive exists."""
    folder = FOLDER / name
    if not folder.is_dir():
        archive = ARCHIVES / f"{name}.tar.xz"
        if not archive.exists():
            sys.exit(f"{archive} is not there; put its content into {folder}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as opened:
            opened.extractall(FOLDER, filter="data")
    return folder

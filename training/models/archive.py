"""Archives of tensors, as torch writes them: zip files of which nothing is compressed."""

import zipfile
from pathlib import Path


def is_compressed(file: Path) -> bool:
    """Whether a zip file has members that are compressed. torch never writes such, and would take
    the memory that they claim: a thousand bytes for each of the file. Raises OSError."""
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False  # torch says what is wrong with it

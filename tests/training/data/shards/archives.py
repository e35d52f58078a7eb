"""Shards as others write them: tar files of small pictures, masks and labels."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import Samples


def tar(path: Path, *files: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture(value: int = 0, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mask(*values: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.resize(np.array(values, np.uint8), (side, side))).save(buffer, "PNG")
    return buffer.getvalue()


def labelled(*labels: str, first: int = 0) -> list[tuple[str, bytes]]:
    files = []
    for number, label in enumerate(labels, first):
        files += [(f"{number:04}.png", picture(number)), (f"{number:04}.cls", label.encode())]
    return files


def values(samples: Samples) -> list[int]:
    """The images of `labelled` by their first pixel."""
    return [int(x) for x in samples.batch(range(len(samples)))[0][:, 0, 0, 0]]

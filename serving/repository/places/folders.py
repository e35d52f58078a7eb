"""The models behind a URL as folders here, each of which changes in one step."""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

# A link that is about to take the place of another.
_NEW = ".new"


class ModelFolders:
    """Folders of models: links to hidden ones beside them, so that whoever looks, at whatever
    moment a process was killed, sees a config with the versions that came with it.

    path: holds them, in the layout of a repository.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Makes the folder where it is missing, and removes what a killed process has left."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / _NEW).unlink(missing_ok=True)
        found = list(self.path.iterdir())
        led_to = {str(path.readlink()) for path in found if path.is_symlink()}
        for path in found:
            if not path.is_symlink() and path.name not in led_to:
                shutil.rmtree(path, ignore_errors=True)

    def names(self) -> set[str]:
        """The models that have a folder."""
        return {path.name for path in self.path.iterdir() if not path.name.startswith(".")}

    def has(self, name: str) -> bool:
        """Whether a model has a folder."""
        return (self.path / name).is_dir()

    def put(self, name: str, staged: Path, versions: Mapping[int, Path]) -> None:
        """Makes a staged folder, with links to these versions in it, the model's from now on."""
        for version, content in versions.items():
            (staged / str(version)).symlink_to(self._seen_from_model(content))
        new = self.path / f".{uuid.uuid4().hex}"
        staged.rename(new)
        before = self._behind(name)
        _replace_link(self.path / name, Path(new.name))
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    def link(self, name: str, versions: Mapping[int, Path]) -> None:
        """Has a model these versions and no others; each leads to its content in one step."""
        folder = self.path / name
        for version, content in versions.items():
            target, link = self._seen_from_model(content), folder / str(version)
            if not link.is_symlink() or link.readlink() != target:
                _replace_link(link, target)
        for link in folder.iterdir():
            if link.is_symlink() and link.name not in map(str, versions):
                link.unlink()

    def remove(self, name: str) -> None:
        """Removes a model in one step."""
        before = self._behind(name)
        (self.path / name).unlink(missing_ok=True)
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    def _behind(self, name: str) -> Path | None:
        link = self.path / name
        return self.path / link.readlink() if link.is_symlink() else None

    def _seen_from_model(self, content: Path) -> Path:
        return Path(os.path.relpath(content, self.path / "model"))


def _replace_link(link: Path, target: Path) -> None:
    new = link.parent / _NEW
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)

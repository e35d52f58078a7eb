"""Writes variants, samples and manifest beside the files of a version that is served.

Nothing that is there is changed. New files are made in NAME/.adopt, which no server takes for a
version, and moved one by one, the manifest last: until it has appeared a server knows no variant,
and one that looks in between finds, by the checksums, at worst a variant to refuse.
"""

import fcntl
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from serving.base.digest import sha256
from serving.base.errors import ModelLoadError
from serving.base.tensor import Array
from serving.models.loading.config_completion import read_config
from serving.repository.interface import misfit
from serving.repository.layout import scan_model
from serving.repository.manifest import (
    MANIFEST_FILE,
    SAMPLES_FILE,
    Manifest,
    read_manifest,
    write_manifest,
)
from serving.repository.samples import Samples
from training.errors import ExportError
from training.pipeline.adopt.served import ServedModel

_STAGING = ".adopt"
_LOCK = "lock"
# The names of the files that are about to be moved, one a line.
_MOVED = "moved"


@dataclass(frozen=True)
class Staging:
    """The folder in which one adoption makes its files.

    interrupted: names of the files that an adoption before it was about to move when it was killed.
    """

    folder: Path
    interrupted: frozenset[str]


@contextmanager
def staging(model: ServedModel) -> Iterator[Staging]:
    """An empty folder beside the versions, for one adoption at a time. Raises ExportError while
    another is at work, OSError where nothing can be written."""
    folder = model.path / _STAGING
    folder.mkdir(exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ExportError(f"{model.path}: is being adopted by another process") from error
        try:
            interrupted: frozenset[str] = frozenset()
            if (folder / _MOVED).is_file():
                interrupted = frozenset((folder / _MOVED).read_text().splitlines())
            for left in folder.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
                elif left.name != _LOCK:
                    left.unlink()
            yield Staging(folder, interrupted)
        except BaseException:
            # Where files may have been moved, the next adoption reads here which.
            if not (folder / _MOVED).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def publish(
    model: ServedModel, manifest: Manifest, files: Sequence[Path], samples: Samples, place: Staging
) -> None:
    """Moves the files of variants, which lie in the staging folder, into the version's folder, then
    samples and manifest. Files of variants that an earlier adoption wrote, and this one did not, go
    last.

    Raises ExportError where a server would not read the manifest, or where a file is in the way
    that no adoption wrote.
    """
    staged = place.folder
    write_samples(staged / SAMPLES_FILE, samples)
    write_manifest(staged, manifest)
    _check(model, staged)
    former = _files_of(model.former) if model.former is not None else set()
    former -= {model.file.name}
    moved = [file.name for file in files if file.parent == staged] + [SAMPLES_FILE]
    for name in moved:
        known = name in former | place.interrupted
        if not known and (model.folder / name).exists():
            raise ExportError(
                f"{model.folder / name}: is there already, and no adoption wrote it; nothing was "
                "changed"
            )
    (staged / _MOVED).write_text("\n".join(moved))
    for name in (*moved, MANIFEST_FILE):
        os.replace(staged / name, model.folder / name)  # noqa: PTH105 - documented to be atomic
    for name in former - set(moved):
        (model.folder / name).unlink(missing_ok=True)


def _files_of(manifest: Manifest) -> set[str]:
    return {variant.file for variant in manifest.variants} | {SAMPLES_FILE}


def is_whole(model: ServedModel) -> bool:
    """Whether every file of the former manifest is there and unchanged."""
    if model.former is None or not (model.folder / SAMPLES_FILE).is_file():
        return False
    try:
        return all(
            sha256(model.folder / variant.file) == variant.sha256
            for variant in model.former.variants
        )
    except OSError:
        return False


def write_samples(path: Path, samples: Samples) -> None:
    """samples.npz. numpy's own function takes no arrays that are called like its arguments."""
    arrays: Mapping[str, Array] = samples.inputs | samples.answers
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _check(model: ServedModel, staged: Path) -> None:
    """Reads the manifest back with the server's own eyes before anybody sees it."""
    try:
        manifest = read_manifest(staged)
        assert manifest is not None, "written above"
        read_config(scan_model(model.path.absolute()))
    except ModelLoadError as error:
        raise ExportError(error.detail) from error
    if manifest.interface is not None:
        size = manifest.transform.size if manifest.transform is not None else None
        reason = misfit(manifest.interface, size, model.inputs, model.outputs)
        if reason:
            raise ExportError(f"{model.path}: {reason}")

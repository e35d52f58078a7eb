"""Writes variants, samples and manifest beside the files of a version that is served.

Nothing that is there is changed. New files are made in NAME/.adopt, which no server takes for a
version, and moved one by one, the manifest last: until it has appeared a server knows no variant,
and one that looks in between finds, by the checksums, at worst a variant to refuse.
"""

import fcntl
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.lib import format as npy

from serving.base.errors import ModelLoadError
from serving.base.files import is_plain_name, read_file, sha256
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
from serving.repository.signing.statement import SIGNATURE_FILE, sign_version
from training.errors import ExportError
from training.models.export.variants import SCHEMES
from training.pipeline.adopt.served import RECIPE, ServedModel

log = logging.getLogger(__name__)

_STAGING = ".adopt"
_LOCK = "lock"
# The names of the files that are about to be moved, one a line.
_MOVED = "moved"
# The ends of the names of files that are made here. No others are deleted or replaced, whatever a
# manifest or _MOVED names.
_MADE = tuple(f".{variant}.onnx" for variant in ("fp16", *SCHEMES))


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
    if folder.is_symlink():  # what lies there would be deleted
        raise ExportError(f"{folder}: expected a folder, which adopt makes itself, got a link")
    with open(folder / _LOCK, "w", opener=_no_link) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have ended, and removed this very file, just before.
            if not os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat()):
                raise BlockingIOError
        except OSError as error:
            raise ExportError(f"{model.path}: is being adopted by another process") from error
        try:
            interrupted: frozenset[str] = frozenset()
            if (folder / _MOVED).is_file():
                interrupted = _made(
                    read_file(folder / _MOVED).decode(errors="replace").splitlines()
                )
            for left in folder.iterdir():
                if left.is_dir() and not left.is_symlink():
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


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def tidy(model: ServedModel) -> None:
    """Removes what an adoption left that was killed when its manifest had appeared."""
    if (model.path / _STAGING).is_dir():
        with suppress(ExportError, OSError), staging(model) as place:
            _remove(model, place.interrupted - _files_of(model))


def publish(
    model: ServedModel,
    manifest: Manifest,
    files: Sequence[Path],
    samples: Samples,
    place: Staging,
    key: Ed25519PrivateKey | None = None,
) -> None:
    """Moves the files of variants, which lie in the staging folder, into the version's folder, then
    samples and manifest. Files of variants that an earlier adoption wrote, and this one did not, go
    last, and then comes the signature: until it fits, a server that asks for one keeps what it has.

    key: signs the version.
    Raises ExportError where a server would not read the manifest, or where a manifest or another
    file is in the way that no adoption wrote.
    """
    staged = place.folder
    write_samples(staged / SAMPLES_FILE, samples)
    write_manifest(staged, manifest)
    _check(model, staged)
    # Those of another adoption count too, which may have ended since this one began.
    former = place.interrupted | _files_of(model)
    moved = [file.name for file in files if file.parent == staged] + [SAMPLES_FILE]
    for name in moved:
        if name not in former and (model.folder / name).exists():
            raise ExportError(
                f"{model.folder / name}: is there already, and no adoption wrote it; nothing was "
                "changed"
            )
    (staged / f"{_MOVED}.new").write_text("\n".join(sorted(former | set(moved))))
    (staged / f"{_MOVED}.new").replace(staged / _MOVED)
    for name in (*moved, MANIFEST_FILE):
        os.replace(staged / name, model.folder / name)  # noqa: PTH105 - documented to be atomic
    _remove(model, former - set(moved))
    if key is not None:
        sign(model, key)
    elif (model.folder / SIGNATURE_FILE).exists():
        log.warning("adopt: %s does not fit any more: sign it anew", model.folder / SIGNATURE_FILE)


def sign(model: ServedModel, key: Ed25519PrivateKey) -> None:
    """Signs the version as it lies there. Raises ExportError."""
    try:
        log.info("adopt: signed by key %s", sign_version(model.folder, key))
    except ModelLoadError as error:
        raise ExportError(error.detail) from error


def _remove(model: ServedModel, names: Iterable[str]) -> None:
    for name in set(names) - {model.file.name}:
        (model.folder / name).unlink(missing_ok=True)


def _made(names: Iterable[str]) -> frozenset[str]:
    """Those of the names that files made here have."""
    return frozenset(
        name
        for name in names
        if is_plain_name(name) and (name == SAMPLES_FILE or name.endswith(_MADE))
    )


def _files_of(model: ServedModel) -> frozenset[str]:
    """The files that the manifest of an adoption names as its own. Raises ExportError where there
    is another manifest."""
    try:
        manifest = read_manifest(model.folder)
    except ModelLoadError as error:
        raise ExportError(error.detail) from error
    if manifest is None:
        return frozenset()
    if manifest.provenance.recipe != RECIPE:
        raise ExportError(f"{model.folder / MANIFEST_FILE}: appeared meanwhile, by no adoption")
    return _made((*(variant.file for variant in manifest.variants), SAMPLES_FILE))


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

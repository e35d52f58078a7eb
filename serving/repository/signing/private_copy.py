"""Copies of signed versions that nobody else can change: what is loaded is what was checked.

A file that was checked where it lies may be another one when a runtime opens it. So the files that
a signature names are copied while they are hashed, and the copy is loaded. Others are not in it.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from serving.base.counting.sums import Tally
from serving.base.errors import ModelLoadError, NotTrusted, restored, told
from serving.base.files import find_file, open_file, own_folder
from serving.repository.layout import ModelFolder
from serving.repository.model_config import ModelConfig
from serving.repository.signing.keys import Keys, pem_of
from serving.repository.signing.statement import (
    SIGNATURE_FILE,
    SignedFile,
    Statement,
    check_config,
    read_signature,
    signed_fields,
    version_files,
)
from serving.repository.temporary import TemporaryFolder, locked, remove_unused

# Below the cache folder, which nobody else may write.
_FOLDER = "signed"
# Loads of one version at a time, by servers that share the folder, that find a place there.
_TURNS = 16
_CHUNK = 1 << 20


class PrivateCopy(NamedTuple):
    """A copy of one version.

    path: its model's folder, which has no other version and no config.
    statement, signers: what is said of it, and the ids of the trusted keys that have signed that,
        one at least.
    passed_over: names of the files beside it in the version's folder that nobody has signed.
    """

    path: Path
    statement: Statement
    signers: tuple[str, ...]
    passed_over: tuple[str, ...]


class SignedVersions:
    """Opens versions that a trusted key has signed, and no others.

    keys: gives the keys that are trusted at the moment.
    cache_dir: holds the copies while they are loaded; without it, the folder for temporary files.
        There, runtimes that know a network by its place find what they have compiled of it.
    refusals: counts, by model and version.
    """

    def __init__(
        self, keys: Callable[[], Keys], cache_dir: Path | None, refusals: Tally | None = None
    ) -> None:
        self._keys = keys
        self._cache_dir = cache_dir
        self._refusals = refusals

    @property
    def pem(self) -> str:
        """The keys that are trusted at the moment, for another process."""
        return pem_of(self._keys())

    def trusts(self, signers: Collection[str]) -> bool:
        """Whether one of the keys that have signed a version is still trusted."""
        return not self._keys().keys().isdisjoint(signers)

    def has_signed(self, folder: Path, statement: Statement) -> bool:
        """Whether a key that is trusted now has signed a statement, by the signature that lies in
        NAME/<version> now. Blocking."""
        try:
            return read_signature(folder, self._keys())[0] == statement
        except NotTrusted:
            return False

    @contextmanager
    def opened(
        self, model: Path, version: int | str, config: ModelConfig | None = None
    ) -> Iterator[PrivateCopy]:
        """A copy of NAME/<version>, with which `config` was signed too; it is gone afterwards, and
        what is mapped of it stays. Blocking.

        Raises NotTrusted, naming the version, the key and the difference, and ModelLoadError where
        nothing can be copied. Errors of a load from it name the files in the repository.
        """
        folder = model / str(version)
        try:
            statement, signers = read_signature(folder, self._keys())
            if config is not None:
                fields = signed_fields(config.proto, config.completed)
                check_config(folder, statement, fields, signers[0])
            with self._place(statement) as place:
                copy = place / model.name
                try:
                    passed_over = _fill(copy, model, statement, signers[0])
                    yield PrivateCopy(copy, statement, signers, passed_over)
                except ModelLoadError as error:
                    raise _of_repository(error, copy, model) from error
        except NotTrusted:
            if self._refusals is not None:
                self._refusals.count(model.name, str(version))
            raise

    def require(self, signers: Collection[str], model: str, version: int) -> None:
        """Raises NotTrusted where none of the keys that have signed a version is trusted any
        more."""
        if not self.trusts(signers):
            if self._refusals is not None:
                self._refusals.count(model, str(version))
            keys = ", ".join(signers)
            raise NotTrusted(f"{model}/{version}: key {keys}, which signed it, is not trusted now")

    @contextmanager
    def copied(self, folder: ModelFolder, version: int) -> Iterator[Path]:
        """The folder of a copy of a version, with whatever config; else as `opened`."""
        with self.opened(folder.path, version) as copy:
            yield copy.path / str(version)

    @contextmanager
    def _place(self, statement: Statement) -> Iterator[Path]:
        """An empty folder, which is the same each time unless another load of the same version has
        it."""
        digest = hashlib.sha256(repr(statement).encode()).hexdigest()[:32]
        names = [f"{digest}-{turn}" for turn in range(_TURNS)]
        with ExitStack() as stack:
            place = None
            if self._cache_dir is not None:
                home = self._cache_dir / _FOLDER
                taken = (_taken(home, name, stack) for name in names)
                place = next((place for place in taken if place is not None), None)
            if place is None:
                place = stack.enter_context(closing(TemporaryFolder())).path
            yield place


def _taken(home: Path, name: str, stack: ExitStack) -> Path | None:
    """Makes a folder for this load alone, and removes those that killed processes have left. None
    where another load has it."""
    try:
        place = own_folder(home) / name
        place.mkdir(exist_ok=True, mode=0o700)
        for other in place.parent.iterdir():
            if other != place:
                with suppress(OSError):
                    remove_unused(other)
        stack.enter_context(locked(place))
    except OSError:
        return None
    stack.callback(shutil.rmtree, place, ignore_errors=True)
    for left in place.iterdir():
        shutil.rmtree(left)
    return place


def _fill(copy: Path, model: Path, statement: Statement, by: str) -> tuple[str, ...]:
    """Copies the files of a statement. Returns the names of others beside them. Raises NotTrusted
    where they are not those that were signed, ModelLoadError where nothing can be written."""
    folder = model / str(statement.version)
    below = copy / str(statement.version)
    try:
        below.mkdir(parents=True)
        others = sorted(set(version_files(folder)) - set(statement.files))
    except OSError as error:
        raise ModelLoadError(f"{error.filename or folder}: {error.strerror}") from error
    for name, file in statement.files.items():
        _copy(folder / name, below / name, file, by, folder, model)
    for name, file in statement.labels.items():
        _copy(model / name, copy / name, file, by, model)
    return tuple(others)


def _copy(path: Path, target: Path, file: SignedFile, by: str, *homes: Path) -> None:
    """Copies one file; links may end in `homes`."""
    try:
        source = open_file(find_file(path.parent, path.name, *homes))
    except OSError as error:
        raise NotTrusted(f"{path}: key {by} signed it, and it {_missing(error)}") from error
    digest = hashlib.sha256()
    left = file.size
    try:
        with source, target.open("xb") as written:
            size = os.fstat(source.fileno()).st_size
            # No more than was signed: the file may be larger than this disk.
            while chunk := source.read(min(_CHUNK, left)):
                digest.update(chunk)
                written.write(chunk)
                left -= len(chunk)
        # Part of the name under which OpenVINO keeps what it has compiled.
        os.utime(target, (0, 0))
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be copied: {error.strerror}") from error
    if size != file.size or digest.hexdigest() != file.sha256:
        had = f"{size:,} bytes" if size != file.size else "another content"
        raise NotTrusted(
            f"{path}: is not the file that key {by} signed: it has {had}; see {SIGNATURE_FILE}"
        )


def _missing(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return f"cannot be read: {error.strerror}"


def _of_repository(error: ModelLoadError, copy: Path, model: Path) -> ModelLoadError:
    """An error that names the files where their owner knows them."""
    fields = told(error)
    text, detail = (part.replace(str(copy), str(model)) for part in (fields.text, fields.detail))
    again = restored(fields._replace(text=text, detail=detail))
    assert isinstance(again, ModelLoadError), "of the same class"
    return again

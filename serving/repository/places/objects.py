"""The models in the listing of a store. Names are of strangers: none may leave its folder here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import unquote

from serving.base.errors import quoted
from serving.base.files import is_plain_name
from serving.base.storage.entry import Entry
from serving.repository.config_checks import WARMUP_FOLDER
from serving.repository.layout import MAX_VERSIONS, can_be_folder, is_version

# Objects below a repository's URL. Each takes 1 KiB while the listing is read; a poll lists all.
MAX_OBJECTS = 100_000
# Folders above an object: the model's, and the version's or that of warm-up data.
DEPTH = 2
# Files of a version, and beside the versions of a model. A variant has 1,024 data files at most.
_MAX_FILES = 4096
# Bytes of the files beside the versions: config, labels and warm-up data.
_MAX_BESIDE_BYTES = 256 << 20


@dataclass
class RemoteModel:
    """A model in a store.

    beside: its files outside of versions, by name; those of warm-up data as "warmup/NAME".
    versions: the files of each version, by name.
    problem: why nothing of it may be fetched; empty where all may.
    """

    name: str
    beside: dict[str, Entry] = field(default_factory=dict)
    versions: dict[int, dict[str, Entry]] = field(default_factory=dict)
    problem: str = ""


def mark(files: Mapping[str, Entry]) -> str:
    """A text that changes with what the store says of these files."""
    lines = [f"{name}\0{file.size}\0{file.changed}" for name, file in sorted(files.items())]
    return sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()


def models_in(root: str, files: Iterable[Entry]) -> dict[str, RemoteModel]:
    """The models below the URL `root`, by name; hidden files and those beside the models are passed
    over, as in a folder. A model with a name that could lead elsewhere has a problem."""
    models: dict[str, RemoteModel] = {}
    for file in files:
        path = file.address.removeprefix(f"{root}/")
        if root.startswith(("http://", "https://")):
            path = unquote(path)
        name, *below = path.split("/")
        # "": an object whose name ends with a slash stands for an empty folder.
        if not below or name.startswith((".", "_")) or (below == [""] and not file.problem):
            continue
        fits = can_be_folder(name)
        shown = name if fits else quoted(name)[1:-1] or "''"
        model = models.setdefault(shown, RemoteModel(shown))
        if not fits:
            model.problem = f"{shown}: no name for a model: expected printable characters"
        elif file.problem:
            model.problem = file.problem
        else:
            _add(model, below, file)
    _refuse_cases(models)
    return {name: _bounded(model) for name, model in models.items()}


def _add(model: RemoteModel, below: list[str], file: Entry) -> None:
    """Adds a file of a model, or the problem with its name."""
    if below[-1] == "" and file.size == 0:
        return
    wrong = [name for name in below if not is_plain_name(name)]
    if wrong:
        model.problem = f"{file_shown(file)}: {quoted(wrong[0])} is no plain name of a file"
    elif any(name.startswith(".") for name in below):
        return
    elif len(below) == 1 and (is_version(below[0]) or below[0] == WARMUP_FOLDER):
        model.problem = f"{file_shown(file)}: is a file, expected a folder"
    elif len(below) == 1:
        model.beside[below[0]] = file
    elif len(below) == 2 and is_version(below[0]):
        model.versions.setdefault(int(below[0]), {})[below[1]] = file
    elif len(below) == 2 and below[0] == WARMUP_FOLDER:
        model.beside["/".join(below)] = file


def file_shown(file: Entry) -> str:
    """The address of a file for a message."""
    return quoted(file.address)[1:-1]


def _refuse_cases(models: dict[str, RemoteModel]) -> None:
    """Gives models a problem whose names, or names of files, a file system might take for one."""
    for name, other in _alike(models):
        models[other].problem = f"{other}: differs from the model {name} in case only"
    for model in models.values():
        for files in (model.beside, *model.versions.values()):
            for name, other in _alike(files):
                model.problem = f"{file_shown(files[other])}: differs from {name} in case only"


def _alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case only."""
    found: dict[str, str] = {}
    pairs = [(found.setdefault(name.casefold(), name), name) for name in names]
    return [(first, name) for first, name in pairs if first != name]


def _bounded(model: RemoteModel) -> RemoteModel:
    most = max(map(len, (model.beside, *model.versions.values())))
    beside = sum(file.size for file in model.beside.values())
    if len(model.versions) > MAX_VERSIONS:
        versions = len(model.versions)
        model.problem = f"{model.name}: expected at most {MAX_VERSIONS} versions, got {versions}"
    elif most > _MAX_FILES:
        model.problem = f"{model.name}: expected at most {_MAX_FILES} files a folder, got {most}"
    elif beside > _MAX_BESIDE_BYTES:
        model.problem = (
            f"{model.name}: expected at most {_MAX_BESIDE_BYTES:,} bytes of config, labels and "
            f"warm-up data, got {beside:,}"
        )
    return model

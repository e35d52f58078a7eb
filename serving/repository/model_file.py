"""The file of a network, and the files that hold its weights: checked before a runtime opens it."""

from pathlib import Path

from serving.base.errors import EngineUnavailable, ModelLoadError
from serving.base.files import find_file
from serving.base.machine.memory import memory_limit
from serving.repository.onnx_file import external_files


def find_in_version(folder: Path, name: str) -> Path:
    """The place of a file of a version folder. A link may lead to another place in the version's or
    in the model's folder. Raises OSError."""
    return find_file(folder, name, folder, folder.parent)


def check_model_file(file: Path) -> tuple[str, ...]:
    """The names of the files beside `file` that hold its weights, which only an ONNX file has.

    Raises ModelLoadError where one of them is none of the version's own, is shorter than the
    network needs, or where all together are larger than this machine's memory.
    """
    needed = {file.name: 0}
    total = 0
    try:
        find_in_version(file.parent, file.name)
        if file.suffix == ".onnx":
            needed |= external_files(file)
        for name, least in needed.items():
            size = find_in_version(file.parent, name).stat().st_size
            total += size
            if size < least:
                raise EngineUnavailable(
                    f"{file}: {name} has {size:,} bytes, the network needs {least:,}"
                )
    except OSError as error:
        raise ModelLoadError(
            f"{error.filename or file}: cannot be read: {error.strerror}"
        ) from error
    if total > memory_limit():
        raise ModelLoadError(
            f"{file}: {total:,} bytes with its weights, more than the memory of this machine or "
            f"container ({memory_limit():,})"
        )
    return tuple(name for name in needed if name != file.name)

"""The config of a served model: config.pbtxt, completed from the model file."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from protos.gen import model_config_pb2 as pb
from serving.base.errors import (
    EngineUnavailable,
    InvalidModelConfig,
    ModelLoadError,
    ModelNotFound,
    NotAllowed,
    NotTrusted,
    quoted,
)
from serving.engines import describe, loaded_facts
from serving.repository.config_checks import check_offered
from serving.repository.config_limits import check_bounds
from serving.repository.config_tensors import FileFacts, complete
from serving.repository.layout import ModelFolder, can_be_folder, scan_model
from serving.repository.model_config import (
    CONFIG_FILE,
    ONNX_FILE,
    PLAN_FILE,
    ModelConfig,
    from_proto,
    model_file_of,
    read_proto,
    version_policy_of,
)
from serving.repository.model_file import check_model_file, find_in_version
from serving.repository.override import stage_override
from serving.repository.places.repositories import Repositories
from serving.repository.temporary import TemporaryFolder

if TYPE_CHECKING:  # it brings cryptography
    from serving.repository.signing.private_copy import SignedVersions

logger = logging.getLogger(__name__)

# Describes a model file that only a runtime can read.
Describe = Callable[[Path], FileFacts]
# Gives the folder from which a version of a model may be read.
Open = Callable[[ModelFolder, int], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Prepared:
    """The files that a load has read before it brings versions up.

    config: the config, or the error that it cannot be served with.
    staged: the folder of the override, if one was given; it is not needed after the load.
    """

    folder: ModelFolder
    config: ModelConfig | ModelLoadError
    staged: TemporaryFolder | None = None


def prepare(
    repositories: Repositories,
    name: str,
    override: Mapping[str, str | bytes],
    load: Describe = loaded_facts,
    *,
    strict: bool,
    signed: "SignedVersions | None" = None,
) -> Prepared:
    """Reads the folder and the config of a model, or writes and reads those of an override; `load`
    as in `read_config`. Blocking.

    signed: opens the versions from which a config is completed.
    Raises ModelNotFound, ModelLoadError where a repository that may have it cannot be reached,
    InvalidInput for a bad override, and NotAllowed for one that brings files which would have to be
    signed.
    """
    folder = repositories.model(name)
    brings_files = any(key.startswith("file:") for key in override)
    if brings_files and signed is not None:
        raise NotAllowed(
            f"load parameters of {quoted(name)}: nobody has signed the files of a call, and "
            "--require-signature serves no others"
        )
    if not can_be_folder(name) or (folder is None and not brings_files):
        if lost := "; ".join(repositories.unreachable().values()):
            raise ModelLoadError(
                f"{quoted(name)}: not found where repositories can be read; {lost}"
            )
        raise ModelNotFound(f"no folder {quoted(name)} in the model repository {repositories}")
    staged = None
    if override and (folder is None or brings_files or not (folder.problem and folder.is_model)):
        staged = stage_override(name, override, repositories.home(name).parent)
        stale = "" if folder is None or brings_files else folder.stale
        folder = replace(scan_model(staged.path / name), stale=stale)
    assert folder is not None
    config: ModelConfig | ModelLoadError
    try:
        open_version = as_it_lies if signed is None else signed.copied
        config = read_config(folder, load, strict=strict, open_version=open_version)
    except ModelLoadError as error:
        config = error
    except Exception as error:  # what nobody foresaw must not take the other models with it
        logger.exception("config not read", extra={"model": name})
        config = ModelLoadError(f"{folder.path}: {type(error).__name__}: {error}")
    return Prepared(folder, config, staged)


def as_it_lies(folder: ModelFolder, version: int) -> AbstractContextManager[Path]:
    """NAME/<version> in the repository."""
    return nullcontext(folder.path / str(version))


def log_config(config: ModelConfig) -> None:
    """Logs its warnings and the fields that were filled in."""
    for warning in config.warnings:
        logger.warning("config", extra={"model": config.name, "reason": warning})
    if config.completed:
        fields = list(config.completed)
        logger.info("config completed", extra={"model": config.name, "fields": fields})


def read_config(
    folder: ModelFolder,
    load: Describe = loaded_facts,
    *,
    strict: bool = False,
    open_version: Open = as_it_lies,
) -> ModelConfig:
    """The config of a model, with every field checked. Blocking.

    Where config.pbtxt is missing, or leaves out max_batch_size, input or output, these are taken
    from the file of the newest version that is selected; `completed` of the result names them.

    load: describes a file that only a runtime can read, here or in another process.
    strict: nothing is completed, and a config that leaves tensors out is refused.
    open_version: gives the folder of the version whose file is read.
    Raises ModelLoadError naming the file and the field.
    """
    if folder.problem:
        raise ModelLoadError(folder.problem)
    path = folder.path / CONFIG_FILE
    proto = read_proto(path)
    if proto is not None:
        check_bounds(proto, path)
    completed: tuple[str, ...] = ()
    if strict:
        if proto is None:
            raise InvalidModelConfig(f"{path}: not found")
        for name in ("input", "output"):
            if not getattr(proto, name):
                raise InvalidModelConfig(f"{path}: {name}: missing, which --strict-config refuses")
    else:
        proto, completed = _completed(folder, proto, load, open_version)
    config = replace(from_proto(proto, path), completed=completed)
    check_offered(config, folder.path)
    return config


def _completed(
    folder: ModelFolder, proto: pb.ModelConfig | None, load: Describe, open_version: Open
) -> tuple[pb.ModelConfig, tuple[str, ...]]:
    """The completed config, and the names of the fields that were filled in. It stays as it is
    where no file can be read; loading then reports the reason."""
    if proto is not None and proto.input and proto.output and proto.max_batch_size:
        return proto, ()
    try:
        file, facts = _newest(folder, proto, load, open_version)
    except EngineUnavailable:
        if proto is None:
            raise
        return proto, ()
    if file is None or facts is None:
        if proto is None:
            raise InvalidModelConfig(
                f"{folder.path / CONFIG_FILE}: not found, and no {ONNX_FILE} or {PLAN_FILE} to "
                "complete it from"
            )
        return proto, ()
    if proto is not None:
        return proto, complete(proto, facts)
    platform = "tensorrt_plan" if file.suffix == ".plan" else "onnxruntime_onnx"
    proto = pb.ModelConfig(platform=platform)
    return proto, ("platform", *complete(proto, facts))


def _newest(
    folder: ModelFolder, proto: pb.ModelConfig | None, load: Describe, open_version: Open
) -> tuple[Path | None, FileFacts | None]:
    """The model file of the newest version that is selected, described; of an older one where that
    is not trusted. None where there is no file."""
    policy = version_policy_of(folder.path / CONFIG_FILE, proto or pb.ModelConfig())
    newest = max(policy.select(list(folder.versions)), default=0)
    refused: NotTrusted | None = None
    for version in sorted((v for v in folder.versions if v <= newest), reverse=True):
        try:
            with open_version(folder, version) as place:
                file = _file(place, proto)
                if file is None:
                    return None, None
                check_model_file(file)
                return file, describe(file, load)
        except NotTrusted as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return None, None


def _file(place: Path, proto: pb.ModelConfig | None) -> Path | None:
    """The model file of the version in `place`; None where it is not there."""
    for name in [ONNX_FILE, PLAN_FILE] if proto is None else [model_file_of(proto)]:
        try:
            find_in_version(place, name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelLoadError(f"{place / name}: cannot be read: {error.strerror}") from error
        return place / name
    return None

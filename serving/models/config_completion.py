"""The config of a served model: config.pbtxt, completed from the model file."""

from dataclasses import replace
from pathlib import Path

from protos.gen import model_config_pb2 as pb
from serving.base.errors import EngineUnavailable, InvalidModelConfig, ModelLoadError
from serving.engines import describe
from serving.repository.config_checks import check_offered
from serving.repository.config_tensors import complete
from serving.repository.layout import ModelFolder
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


def read_config(folder: ModelFolder, *, strict: bool = False) -> ModelConfig:
    """The config of a model, with every field checked. Blocking.

    Where config.pbtxt is missing, or leaves out max_batch_size, input or output, these are taken
    from the file of the newest version that is selected; `completed` of the result names them.

    strict: nothing is completed, and a config that leaves tensors out is refused.
    Raises ModelLoadError naming the file and the field.
    """
    if folder.problem:
        raise ModelLoadError(folder.problem)
    path = folder.path / CONFIG_FILE
    proto = read_proto(path)
    completed: tuple[str, ...] = ()
    if strict:
        if proto is None:
            raise InvalidModelConfig(f"{path}: not found")
        for name in ("input", "output"):
            if not getattr(proto, name):
                raise InvalidModelConfig(f"{path}: {name}: missing, which --strict-config refuses")
    else:
        proto, completed = _completed(folder, proto)
    config = replace(from_proto(proto, path), completed=completed)
    check_offered(config, folder.path)
    return config


def _completed(
    folder: ModelFolder, proto: pb.ModelConfig | None
) -> tuple[pb.ModelConfig, tuple[str, ...]]:
    """The completed config, and the names of the fields that were filled in. It stays as it is
    where no file can be read; loading then reports the reason."""
    if proto is not None and proto.input and proto.output and proto.max_batch_size:
        return proto, ()
    file = _file(folder, proto)
    if file is None:
        if proto is None:
            raise InvalidModelConfig(
                f"{folder.path / CONFIG_FILE}: not found, and no {ONNX_FILE} or {PLAN_FILE} to "
                "complete it from"
            )
        return proto, ()
    try:
        facts = describe(file)
    except EngineUnavailable:
        if proto is None:
            raise
        return proto, ()
    if proto is not None:
        return proto, complete(proto, facts)
    platform = "tensorrt_plan" if file.suffix == ".plan" else "onnxruntime_onnx"
    proto = pb.ModelConfig(platform=platform)
    return proto, ("platform", *complete(proto, facts))


def _file(folder: ModelFolder, proto: pb.ModelConfig | None) -> Path | None:
    """The model file of the newest version that is selected; None where it is not there."""
    names = [ONNX_FILE, PLAN_FILE]
    policy = version_policy_of(folder.path / CONFIG_FILE, proto or pb.ModelConfig())
    if proto is not None:
        names = [model_file_of(proto)]
    selected = policy.select(list(folder.versions))
    files = [folder.path / str(version) / name for version in selected[-1:] for name in names]
    return next((file for file in files if file.exists()), None)

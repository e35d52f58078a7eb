"""Refuses the fields of a config.pbtxt that would change the answers and are not offered.

A field that only tunes is named in a warning instead.
"""

import math
from pathlib import Path

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.base.files import find_file
from serving.base.tensor import NUMPY_TYPES
from serving.repository.config_fields import data_type
from serving.repository.model_config import CONFIG_FILE, ModelConfig

# Values of platform and backend for a single network in a file that an engine here can run.
_RUN_HERE = ("onnxruntime_onnx", "onnxruntime", "openvino", "tensorrt_plan", "tensorrt")
WARMUP_FOLDER = "warmup"


def check_offered(config: ModelConfig, folder: Path) -> None:
    """Raises InvalidModelConfig, naming the field, where a config of the model in `folder` sets a
    field that is not offered, or a warm-up that does not fit its inputs."""
    where = f"{folder / CONFIG_FILE}: "
    proto = config.proto
    for field in ("platform", "backend"):
        value = getattr(proto, field)
        if value and value not in _RUN_HERE:
            raise InvalidModelConfig(
                f"{where}{field}: expected one of {', '.join(_RUN_HERE)}, got {value!r}"
            )
    if proto.HasField("ensemble_scheduling"):
        raise InvalidModelConfig(f"{where}ensemble_scheduling: ensembles are not offered")
    for index, given in enumerate(proto.input):
        _check_reshape(f"{where}input[{index}]", given)
        if given.optional:
            raise InvalidModelConfig(
                f"{where}input[{index}].optional: not offered; every call brings {given.name!r}"
            )
    for index, made in enumerate(proto.output):
        _check_reshape(f"{where}output[{index}]", made)
    for index, warmup in enumerate(proto.model_warmup):
        _check_warmup(config, folder, f"{where}model_warmup[{index}]", warmup)


def _check_reshape(where: str, tensor: pb.ModelInput | pb.ModelOutput) -> None:
    if tensor.HasField("reshape") and list(tensor.reshape.shape) != list(tensor.dims):
        raise InvalidModelConfig(
            f"{where}.reshape: not offered; give the dims of {tensor.name!r} as the file has them"
        )


def _check_warmup(config: ModelConfig, folder: Path, where: str, warmup: pb.ModelWarmup) -> None:
    if warmup.batch_size > max(1, config.max_batch_size):
        raise InvalidModelConfig(
            f"{where}.batch_size: expected at most max_batch_size ({config.max_batch_size}), "
            f"got {warmup.batch_size}"
        )
    specs = {spec.name: spec for spec in config.inputs}
    if not warmup.inputs or set(warmup.inputs) != set(specs):
        raise InvalidModelConfig(
            f"{where}.inputs: expected {sorted(specs)}, got {sorted(warmup.inputs)}"
        )
    for name, given in warmup.inputs.items():
        spec, field = specs[name], f"{where}.inputs[{name!r}]"
        if given.data_type != data_type(spec.datatype):
            raise InvalidModelConfig(
                f"{field}.data_type: expected {spec.datatype}, got number {given.data_type}"
            )
        dims = tuple(given.dims)
        wanted = spec.shape[1:] if config.max_batch_size else spec.shape
        if len(dims) != len(wanted) or any(
            dim < 1 or want not in (-1, dim) for dim, want in zip(dims, wanted, strict=True)
        ):
            raise InvalidModelConfig(f"{field}.dims: expected {list(wanted)}, got {list(dims)}")
        source = given.WhichOneof("input_data_type")
        if source is None:
            raise InvalidModelConfig(
                f"{field}: expected one of zero_data, random_data, input_data_file"
            )
        if source == "input_data_file":
            _check_data(folder, f"{field}.input_data_file", given, spec.datatype)


def _check_data(folder: Path, field: str, given: pb.ModelWarmup.Input, datatype: str) -> None:
    file = folder / WARMUP_FOLDER / given.input_data_file
    try:
        size = find_file(folder / WARMUP_FOLDER, given.input_data_file, folder).stat().st_size
    except OSError as error:
        raise InvalidModelConfig(f"{field}: {file}: cannot be read: {error.strerror}") from error
    expected = math.prod(given.dims) * NUMPY_TYPES[datatype].itemsize
    if datatype != "BYTES" and size != expected:
        raise InvalidModelConfig(f"{field}: {file}: expected {expected} bytes, got {size}")

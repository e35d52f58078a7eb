"""Parses config.pbtxt, in NVIDIA Triton's grammar: name, tensors, batching, versions."""

import base64
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from google.protobuf import text_format
from pydantic import ConfigDict, PlainSerializer, PlainValidator

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig, quoted
from serving.base.tensor import TensorSpec
from serving.base.text import NotText, read_text
from serving.repository.config_fields import data_type as data_type
from serving.repository.config_fields import unused
from serving.repository.config_limits import CONFIG_BYTES, check_bounds, instances_of
from serving.repository.config_tensors import declared
from serving.repository.placement import Placement, placement_of

CONFIG_FILE = "config.pbtxt"
ONNX_FILE = "model.onnx"
PLAN_FILE = "model.plan"
# Calls that may wait where the config sets no maximum. More wait longer before they are refused.
DEFAULT_MAX_QUEUE_SIZE = 1024
# Fields that are passed over with a line in the log each. More lines would hide the others.
_MAX_WARNINGS = 100
# Parameter of config.pbtxt: milliseconds within which calls ought to be answered.
SLO_PARAMETER = "slo_ms"


@dataclass(frozen=True)
class QueuePolicy:
    """How the queue treats calls of one priority level.

    max_queue_size: calls that may wait.
    default_timeout: seconds; 0 for none.
    allow_timeout_override: whether a call may ask for a shorter one.
    timeout_delays: a call whose timeout has passed goes behind all others of its priority instead
        of being rejected.
    """

    max_queue_size: int = DEFAULT_MAX_QUEUE_SIZE
    default_timeout: float = 0.0
    allow_timeout_override: bool = True
    timeout_delays: bool = False

    def timeout(self, asked: float) -> float:
        """The seconds that hold for a call that asks for `asked`; inf for none."""
        default = self.default_timeout or math.inf
        return asked if asked < default and self.allow_timeout_override else default


@dataclass(frozen=True)
class Batching:
    """How single calls are grouped into batches.

    preferred_batch_sizes: rows, ascending.
    max_queue_delay: seconds that a batch may wait for more rows when it could start; 0 for none.
    priority_levels: number of levels; 1 is the most urgent.
    default_priority: level of calls that ask for none.
    default_policy: queue policy of levels without one of their own.
    priority_policies: queue policies by level.
    """

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay: float = 0.0
    priority_levels: int = 1
    default_priority: int = 1
    default_policy: QueuePolicy = field(default_factory=QueuePolicy)
    priority_policies: dict[int, QueuePolicy] = field(default_factory=dict)

    def policy(self, priority: int) -> QueuePolicy:
        """The policy of a priority level, 1 being the most urgent."""
        return self.priority_policies.get(priority, self.default_policy)


@dataclass(frozen=True)
class VersionPolicy:
    """The version folders that are served; all where neither field is set.

    latest: number of the newest versions that are served.
    specific: numbers of the versions that are served; it comes before `latest`.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def select(self, versions: list[int]) -> list[int]:
        """The versions on disk that are to be served, ascending."""
        ordered = sorted(versions)
        if self.specific:
            return [v for v in ordered if v in self.specific]
        return ordered[-self.latest :] if self.latest else ordered


# In JSON a parsed message is its bytes in base64.
_Proto = Annotated[
    pb.ModelConfig,
    PlainValidator(lambda text: pb.ModelConfig.FromString(base64.b64decode(text))),
    PlainSerializer(lambda proto: base64.b64encode(proto.SerializeToString()).decode()),
]


@dataclass(frozen=True)
class ModelConfig:
    """The part of one config.pbtxt that the server acts on.

    max_batch_size: rows; 0 for a model without a batch dimension.
    inputs, outputs: their shapes include the batch dimension.
    label_filenames: name of the file of class names, by output.
    instances: batches that may run at a time; on GPUs, on each.
    slo: seconds within which calls ought to be answered; inf for none.
    warnings: a line for each field that is passed over.
    proto: the parsed message.
    completed: names of the fields that were taken from the model file.
    """

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    name: str
    platform: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    label_filenames: dict[str, str]
    batching: Batching
    version_policy: VersionPolicy
    instances: int
    placement: Placement
    model_file: str
    slo: float
    parameters: dict[str, str]
    warnings: tuple[str, ...]
    proto: _Proto
    completed: tuple[str, ...] = ()


def read_model_config(folder: Path) -> ModelConfig:
    """Reads NAME/config.pbtxt without completing it. Raises InvalidModelConfig naming the file and
    the line or field."""
    path = folder / CONFIG_FILE
    proto = read_proto(path)
    if proto is None:
        raise InvalidModelConfig(f"{path}: not found")
    return from_proto(proto, path)


def read_proto(path: Path) -> pb.ModelConfig | None:
    """Parses NAME/config.pbtxt; None where there is none. Raises InvalidModelConfig naming the file
    and the line."""
    try:
        text = read_text(path.parent, path.name, limit=CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidModelConfig(f"{path}: cannot be read: {error.strerror}") from error
    except NotText as error:
        raise InvalidModelConfig(f"{path}: cannot be read: {error.reason}") from error
    proto = pb.ModelConfig()
    try:
        text_format.Parse(text, proto)
    except text_format.ParseError as error:
        raise InvalidModelConfig(f"{path}: line {error}") from error
    return proto


def from_proto(proto: pb.ModelConfig, path: Path) -> ModelConfig:
    """Checks a parsed config; `path` is NAME/config.pbtxt, for messages and for the default name.

    Raises InvalidModelConfig.
    """
    _check(proto, path)
    batches = proto.max_batch_size > 0
    return ModelConfig(
        name=path.parent.name,
        platform=proto.platform or proto.backend,
        max_batch_size=proto.max_batch_size,
        inputs=tuple(
            declared(f"{path}: input[{i}]", t, batches=batches) for i, t in enumerate(proto.input)
        ),
        outputs=tuple(
            declared(f"{path}: output[{i}]", t, batches=batches) for i, t in enumerate(proto.output)
        ),
        label_filenames={t.name: t.label_filename for t in proto.output if t.label_filename},
        batching=_batching(path, proto),
        version_policy=version_policy_of(path, proto),
        instances=instances_of(proto),
        placement=placement_of(path, proto),
        model_file=model_file_of(proto),
        slo=_slo(path, proto),
        parameters={key: value.string_value for key, value in proto.parameters.items()},
        warnings=tuple(
            f"{path}: {name}: not supported, ignored" for name in unused(proto)[:_MAX_WARNINGS]
        ),
        proto=proto,
    )


def _check(proto: pb.ModelConfig, path: Path) -> None:
    folder_name = path.parent.name
    if proto.name and proto.name != folder_name:
        raise InvalidModelConfig(
            f"{path}: name: expected {folder_name!r} (the folder's name) or none, "
            f"got {quoted(proto.name)}"
        )
    check_bounds(proto, path)
    for kind, tensors in (("input", proto.input), ("output", proto.output)):
        names = [tensor.name for tensor in tensors]
        for index, name in enumerate(names):
            if name and name in names[:index]:
                raise InvalidModelConfig(f"{path}: {kind}[{index}].name: {name!r} is given twice")


def model_file_of(proto: pb.ModelConfig) -> str:
    """The name of the model file in a version folder."""
    default = PLAN_FILE if "tensorrt" in (proto.platform + proto.backend) else ONNX_FILE
    return proto.default_model_filename or default


def _slo(path: Path, proto: pb.ModelConfig) -> float:
    """The parameter slo_ms, in seconds; inf where there is none."""
    if SLO_PARAMETER not in proto.parameters:
        return math.inf
    text = proto.parameters[SLO_PARAMETER].string_value
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds > 0:
        raise InvalidModelConfig(
            f"{path}: parameters.{SLO_PARAMETER}: expected milliseconds above 0, got {quoted(text)}"
        )
    return milliseconds / 1e3


def _batching(path: Path, proto: pb.ModelConfig) -> Batching:
    dynamic = proto.dynamic_batching
    where = f"{path}: dynamic_batching"
    for size in dynamic.preferred_batch_size:
        if not 1 <= size <= max(1, proto.max_batch_size):
            raise InvalidModelConfig(
                f"{where}.preferred_batch_size: expected 1 to max_batch_size "
                f"({proto.max_batch_size}), got {size}"
            )
    levels = max(1, dynamic.priority_levels)
    default = dynamic.default_priority_level or (levels + 1) // 2
    if default > levels:
        raise InvalidModelConfig(
            f"{where}.default_priority_level: expected 1 to priority_levels ({levels}), "
            f"got {default}"
        )
    for level in dynamic.priority_queue_policy:
        if not 1 <= level <= levels:
            raise InvalidModelConfig(
                f"{where}.priority_queue_policy: expected keys of 1 to priority_levels ({levels}), "
                f"got {level}"
            )
    return Batching(
        preferred_batch_sizes=tuple(sorted(dynamic.preferred_batch_size)),
        max_queue_delay=dynamic.max_queue_delay_microseconds / 1e6,
        priority_levels=levels,
        default_priority=default,
        default_policy=_queue_policy(dynamic.default_queue_policy)
        if dynamic.HasField("default_queue_policy")
        else QueuePolicy(),
        priority_policies={
            level: _queue_policy(policy) for level, policy in dynamic.priority_queue_policy.items()
        },
    )


def _queue_policy(policy: pb.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=policy.max_queue_size or DEFAULT_MAX_QUEUE_SIZE,
        default_timeout=policy.default_timeout_microseconds / 1e6,
        allow_timeout_override=policy.allow_timeout_override,
        timeout_delays=policy.timeout_action == pb.ModelQueuePolicy.DELAY,
    )


def version_policy_of(path: Path, proto: pb.ModelConfig) -> VersionPolicy:
    """The versions that a config selects; `path` is for messages. Raises InvalidModelConfig."""
    policy = proto.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(latest=None)
        case "specific":
            if not policy.specific.versions:
                raise InvalidModelConfig(f"{path}: version_policy.specific.versions: empty")
            return VersionPolicy(latest=None, specific=tuple(policy.specific.versions))
        case _:
            return VersionPolicy(latest=policy.latest.num_versions or 1)


def check_against_engine(
    config: ModelConfig, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], file: Path
) -> None:
    """Raises InvalidModelConfig where a model file lacks a tensor of its config, or needs an input
    that the config leaves out."""
    for kind, wanted, offered in (
        ("input", config.inputs, inputs),
        ("output", config.outputs, outputs),
    ):
        by_name = {spec.name: spec for spec in offered}
        for spec in wanted:
            real = by_name.get(spec.name)
            if real is None:
                raise InvalidModelConfig(
                    f"{file}: config.pbtxt promises {kind} {spec.name!r}, "
                    f"the file has {sorted(by_name)}"
                )
            if real.datatype != spec.datatype or not _compatible(spec.shape, real.shape):
                raise InvalidModelConfig(
                    f"{file}: config.pbtxt promises {kind} {spec}, the file has {real}"
                )
    missing = {spec.name for spec in inputs} - {spec.name for spec in config.inputs}
    if config.inputs and missing:
        raise InvalidModelConfig(
            f"{file}: the file needs inputs {sorted(missing)} that config.pbtxt leaves out"
        )


def _compatible(promised: tuple[int, ...], real: tuple[int, ...]) -> bool:
    return len(promised) == len(real) and all(
        p == r or -1 in (p, r) for p, r in zip(promised, real, strict=True)
    )

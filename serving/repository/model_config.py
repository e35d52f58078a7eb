"""config.pbtxt, in NVIDIA Triton's grammar: what a model is called, takes and gives, and how its
calls are grouped into batches."""

import math
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig
from serving.base.tensor import TensorSpec

CONFIG_FILE = "config.pbtxt"
DEFAULT_MODEL_FILE = "model.onnx"
DEFAULT_MAX_QUEUE_SIZE = 1024
# Parameter of config.pbtxt: the time, in milliseconds, within which calls ought to be answered.
SLO_PARAMETER = "slo_ms"

# Names of DataType with and without the grammar's prefix; what it calls STRING is BYTES elsewhere.
_WIRE_NAME = {"STRING": "BYTES"}
_GRAMMAR_NAME = {wire: name for name, wire in _WIRE_NAME.items()}

# What we act on. Everything else that a file sets parses, and is named in a warning.
_SUPPORTED = {
    "ModelConfig": {
        "name", "platform", "backend", "runtime", "version_policy", "max_batch_size", "input",
        "output", "instance_group", "default_model_filename", "dynamic_batching", "parameters",
        "model_warmup", "optimization",
    },
    "ModelInput": {"name", "data_type", "dims", "format"},
    "ModelOutput": {"name", "data_type", "dims", "label_filename"},
    "ModelInstanceGroup": {"name", "kind", "count", "gpus"},
    "ModelOptimizationPolicy": {"cuda"},
    "Cuda": {"graphs", "graph_spec"},
    "GraphSpec": {"batch_size"},
    "ModelDynamicBatching": {
        "preferred_batch_size", "max_queue_delay_microseconds", "priority_levels",
        "default_priority_level", "default_queue_policy", "priority_queue_policy",
    },
}  # fmt: skip


@dataclass(frozen=True)
class QueuePolicy:
    """What the queue does with calls of one priority level.

    max_queue_size counts calls. default_timeout is in seconds, 0 for none; allow_timeout_override
    lets a call name a shorter one; timeout_delays puts a call whose timeout has passed behind all
    others of its priority instead of rejecting it.
    """

    max_queue_size: int = DEFAULT_MAX_QUEUE_SIZE
    default_timeout: float = 0.0
    allow_timeout_override: bool = True
    timeout_delays: bool = False

    def timeout(self, asked: float) -> float:
        """The seconds that hold for a call that asks for `asked`; inf for none."""
        default = self.default_timeout or math.inf
        return min(default, asked) if self.allow_timeout_override else default


@dataclass(frozen=True)
class Batching:
    """How single calls are grouped. max_queue_delay, in seconds, is how long a batch that could
    start may wait for company; 0 never waits."""

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
    """Which version folders are served: the newest `latest`, or exactly `specific`, or all (both
    unset)."""

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def select(self, versions: list[int]) -> list[int]:
        """Those of the versions on disk that are to be served, ascending."""
        ordered = sorted(versions)
        if self.specific:
            return [v for v in ordered if v in self.specific]
        return ordered[-self.latest :] if self.latest else ordered


@dataclass(frozen=True)
class Placement:
    """Where instances run. kind "auto": on GPUs where an engine for them can be used, else on the
    CPU. `gpus`: the GPU of each instance; empty leaves it to the server, which then puts as many
    as the config asks for on every GPU. graph_batch_sizes: batches that get a CUDA graph."""

    kind: Literal["auto", "gpu", "cpu"] = "auto"
    gpus: tuple[int, ...] = ()
    graph_batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """What the server acts on of one config.pbtxt. Tensor shapes include the batch dimension; slo
    is in seconds, inf for none."""

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
    proto: pb.ModelConfig


def read_model_config(folder: Path) -> ModelConfig:
    """Reads NAME/config.pbtxt. Raises InvalidModelConfig naming the file and the line or field."""
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidModelConfig(f"{path}: not found") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModelConfig(f"{path}: cannot be read: {error}") from error
    proto = pb.ModelConfig()
    try:
        text_format.Parse(text, proto)
    except text_format.ParseError as error:
        raise InvalidModelConfig(f"{path}: line {error}") from error
    return from_proto(proto, path)


def from_proto(proto: pb.ModelConfig, path: Path) -> ModelConfig:
    """Checks a parsed config; `path` is NAME/config.pbtxt, for messages and for the default name.

    Raises InvalidModelConfig.
    """
    folder_name = path.parent.name
    if proto.name and proto.name != folder_name:
        raise InvalidModelConfig(
            f"{path}: name: expected {folder_name!r} (the folder's name) or none, "
            f"got {proto.name!r}"
        )
    if proto.max_batch_size < 0:
        raise InvalidModelConfig(
            f"{path}: max_batch_size: expected 0 or more, got {proto.max_batch_size}"
        )
    for index, group in enumerate(proto.instance_group):
        if group.count < 0:
            raise InvalidModelConfig(
                f"{path}: instance_group[{index}].count: expected 1 or more, got {group.count}"
            )
    batches = proto.max_batch_size > 0
    instances = sum((g.count or 1) * max(1, len(g.gpus)) for g in proto.instance_group) or 1
    return ModelConfig(
        name=folder_name,
        platform=proto.platform or proto.backend,
        max_batch_size=proto.max_batch_size,
        inputs=tuple(_spec(path, "input", i, t, batches) for i, t in enumerate(proto.input)),
        outputs=tuple(_spec(path, "output", i, t, batches) for i, t in enumerate(proto.output)),
        label_filenames={t.name: t.label_filename for t in proto.output if t.label_filename},
        batching=_batching(path, proto),
        version_policy=_version_policy(path, proto.version_policy),
        instances=instances,
        placement=_placement(path, proto),
        model_file=proto.default_model_filename or DEFAULT_MODEL_FILE,
        slo=_slo(path, proto),
        parameters={key: value.string_value for key, value in proto.parameters.items()},
        warnings=tuple(f"{path}: {name}: not supported, ignored" for name in _unused(proto)),
        proto=proto,
    )


def _spec(
    path: Path, kind: str, index: int, tensor: pb.ModelInput | pb.ModelOutput, batches: bool
) -> TensorSpec:
    where = f"{path}: {kind}[{index}]"
    if not tensor.name:
        raise InvalidModelConfig(f"{where}.name: missing")
    if tensor.data_type == pb.TYPE_INVALID:
        raise InvalidModelConfig(f"{where}.data_type: missing, for {tensor.name!r}")
    if tensor.data_type not in pb.DataType.values():
        raise InvalidModelConfig(f"{where}.data_type: unknown number {tensor.data_type}")
    if any(dim < -1 or dim == 0 for dim in tensor.dims):
        raise InvalidModelConfig(
            f"{where}.dims: expected positive numbers or -1, got {list(tensor.dims)}"
        )
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    shape = ((-1,) if batches else ()) + tuple(tensor.dims)
    return TensorSpec(tensor.name, _WIRE_NAME.get(name, name), shape)


def data_type(datatype: str) -> int:
    """The grammar's element type of a wire name ("BYTES" -> TYPE_STRING)."""
    return pb.DataType.Value("TYPE_" + _GRAMMAR_NAME.get(datatype, datatype))


def _placement(path: Path, proto: pb.ModelConfig) -> Placement:
    group_of = pb.ModelInstanceGroup
    on_gpus = [g for g in proto.instance_group if g.kind == group_of.KIND_GPU or g.gpus]
    gpus: list[int] = []
    for index, group in enumerate(proto.instance_group):
        where = f"{path}: instance_group[{index}].gpus"
        if any(number < 0 for number in group.gpus):
            raise InvalidModelConfig(f"{where}: expected 0 or more, got {list(group.gpus)}")
        if group.gpus and group.kind == group_of.KIND_CPU:
            raise InvalidModelConfig(f"{where}: a group of KIND_CPU has none")
        gpus += [number for number in group.gpus for _ in range(group.count or 1)]
    if on_gpus and len(on_gpus) < len(proto.instance_group):
        raise InvalidModelConfig(
            f"{path}: instance_group: expected all groups on GPUs or none, since one engine serves "
            "a model"
        )
    if gpus and any(not group.gpus for group in on_gpus):
        raise InvalidModelConfig(f"{path}: instance_group: expected gpus in every group or in none")
    kind: Literal["auto", "gpu", "cpu"] = "gpu" if on_gpus else "auto"
    if any(group.kind == group_of.KIND_CPU for group in proto.instance_group):
        kind = "cpu"
    return Placement(kind, tuple(gpus), _graph_batch_sizes(path, proto))


def _graph_batch_sizes(path: Path, proto: pb.ModelConfig) -> tuple[int, ...]:
    """Those that optimization.cuda names; without any, the powers of two up to the largest."""
    largest = max(1, proto.max_batch_size)
    if not proto.optimization.cuda.graphs:
        return ()
    sizes = sorted({spec.batch_size for spec in proto.optimization.cuda.graph_spec})
    for size in sizes:
        if not 1 <= size <= largest:
            raise InvalidModelConfig(
                f"{path}: optimization.cuda.graph_spec.batch_size: expected 1 to "
                f"max_batch_size ({proto.max_batch_size}), got {size}"
            )
    return tuple(sizes or sorted({2**i for i in range(largest.bit_length())} | {largest}))


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
            f"{path}: parameters.{SLO_PARAMETER}: expected milliseconds above 0, got {text!r}"
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


def _version_policy(path: Path, policy: pb.ModelVersionPolicy) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(latest=None)
        case "specific":
            if not policy.specific.versions:
                raise InvalidModelConfig(f"{path}: version_policy.specific.versions: empty")
            return VersionPolicy(latest=None, specific=tuple(policy.specific.versions))
        case _:
            return VersionPolicy(latest=policy.latest.num_versions or 1)


def _unused(message: Message, prefix: str = "") -> list[str]:
    """Paths of the fields that the file sets and that nothing here acts on."""
    supported = _SUPPORTED.get(message.DESCRIPTOR.name)
    names = []
    for descriptor, value in message.ListFields():
        where = prefix + descriptor.name
        if supported is not None and descriptor.name not in supported:
            names.append(where)
        elif descriptor.type == FieldDescriptor.TYPE_MESSAGE and supported is not None:
            names += _unused_below(value, where)
    return names


def _unused_below(value: Any, where: str) -> list[str]:
    if isinstance(value, Message):
        return _unused(value, where + ".")
    if isinstance(value, Mapping):
        return []
    return [
        name for index, item in enumerate(value) for name in _unused(item, f"{where}[{index}].")
    ]


def to_json(message: Message) -> dict[str, Any]:
    """A config, or a part of it, as REST shows it: field names as in the grammar, fields at their
    default too, 64-bit integers as numbers."""
    plain: dict[str, Any] = {}
    for declared in message.DESCRIPTOR.fields:
        name = declared.name
        value = getattr(message, name)
        names = {} if declared.enum_type is None else declared.enum_type.values_by_number
        if isinstance(value, Mapping):
            plain[name] = {str(key): _plain_value(v, names) for key, v in value.items()}
        elif isinstance(value, MutableSequence):
            plain[name] = [_plain_value(v, names) for v in value]
        elif not declared.has_presence or message.HasField(name):
            plain[name] = _plain_value(value, names)
    return plain


def _plain_value(value: Any, names: Mapping[int, Any]) -> Any:
    if isinstance(value, Message):
        return to_json(value)
    return names[value].name if names else value


def check_against_engine(
    config: ModelConfig, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], file: Path
) -> None:
    """Raises InvalidModelConfig where a model file does not have the tensors that its config
    promises, or needs an input that the config leaves out."""
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

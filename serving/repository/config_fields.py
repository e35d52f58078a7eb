"""The fields of config.pbtxt that are acted on, the names of its element types, and its form in
JSON."""

from collections.abc import Mapping, MutableSequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos.gen import model_config_pb2 as pb

# The grammar says STRING where the wires say BYTES.
_WIRE_NAME = {"STRING": "BYTES"}
_GRAMMAR_NAME = {wire: name for name, wire in _WIRE_NAME.items()}


# The fields that are acted on. Every other field parses, and is named in a warning.
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


def wire_name(data_type: int) -> str:
    """The wire's name of an element type (TYPE_STRING -> "BYTES")."""
    name = pb.DataType.Name(data_type).removeprefix("TYPE_")
    return _WIRE_NAME.get(name, name)


def data_type(datatype: str) -> int:
    """The grammar's element type of a wire name ("BYTES" -> TYPE_STRING)."""
    return pb.DataType.Value("TYPE_" + _GRAMMAR_NAME.get(datatype, datatype))


def reads(message: str, field: str) -> bool:
    """Whether the server acts on a field of a message of the grammar, both by their names."""
    return field in _SUPPORTED.get(message, {field})


def unused(message: Message, prefix: str = "") -> list[str]:
    """Paths of the fields that the file sets and the server does not act on."""
    supported = _SUPPORTED.get(message.DESCRIPTOR.name)
    names = []
    for descriptor, value in message.ListFields():
        where = prefix + descriptor.name
        if not reads(message.DESCRIPTOR.name, descriptor.name):
            names.append(where)
        elif descriptor.type == FieldDescriptor.TYPE_MESSAGE and supported is not None:
            names += _unused_below(value, where)
    return names


def _unused_below(value: Any, where: str) -> list[str]:
    if isinstance(value, Message):
        return unused(value, where + ".")
    if isinstance(value, Mapping):
        return []
    return [name for index, item in enumerate(value) for name in unused(item, f"{where}[{index}].")]


def plain(message: Message) -> dict[str, Any]:
    """A message as REST shows it: field names as in the grammar, fields at their default too,
    64-bit integers as numbers."""
    shown: dict[str, Any] = {}
    for declared in message.DESCRIPTOR.fields:
        name = declared.name
        value = getattr(message, name)
        names = {} if declared.enum_type is None else declared.enum_type.values_by_number
        if isinstance(value, Mapping):
            shown[name] = {str(key): _plain_value(v, names) for key, v in value.items()}
        elif isinstance(value, MutableSequence):
            shown[name] = [_plain_value(v, names) for v in value]
        elif not declared.has_presence or message.HasField(name):
            shown[name] = _plain_value(value, names)
    return shown


def _plain_value(value: Any, names: Mapping[int, Any]) -> Any:
    if isinstance(value, Message):
        return plain(value)
    return names[value].name if names else value

"""The fields of config.pbtxt: those that are read, those that are refused, and the others."""

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from scripts.reference.comments import FIELDS, MESSAGES, NESTED, commented
from scripts.reference.services import field_type
from scripts.reference.text import Undocumented, code, join, plain, table
from serving.repository.config_fields import reads

_INTRODUCTION = """\
# config.pbtxt

`config.pbtxt` of a model is NVIDIA Triton's, in the text format of protobuf, so that one
repository serves both. The whole grammar parses. A field that only tunes and is not read here is
named in a warning; one that would make another model of it is refused, and the model does not
load. Values and limits: [the protocol](../protocol.md#configpbtxt).
"""
# Fields that are refused where they are set, by message (serving.repository.config_checks).
REFUSED = {
    "ModelConfig": ("ensemble_scheduling",),
    "ModelInput": ("reshape", "optional"),
    "ModelOutput": ("reshape",),
}
# Messages that are read, in the order of the page, by the path of their fields.
_READ = {
    "ModelConfig": "",
    "ModelInput": "input",
    "ModelOutput": "output",
    "ModelVersionPolicy": "version_policy",
    "ModelInstanceGroup": "instance_group",
    "ModelDynamicBatching": "dynamic_batching",
    "ModelQueuePolicy": "dynamic_batching.default_queue_policy",
    "ModelOptimizationPolicy": "optimization",
    "Cuda": "optimization.cuda",
    "GraphSpec": "optimization.cuda.graph_spec",
    "ModelWarmup": "model_warmup",
    "Input": "model_warmup.inputs",
}
# Values of an enum that a cell names, the first of which is most often none.
_SHOWN = 6
Path = tuple[int, ...]


def page() -> str:
    """The page. Raises Undocumented for a field that is read and has no comment in the proto."""
    found = {message.name: (message, at) for message, at in _messages()}
    blocks = [_INTRODUCTION]
    for name, path in _READ.items():
        message, at = found[name]
        title = code(path) if path else "The model"
        blocks += [f"## {title} {{ #{_anchor(name)} }}", _fields(message, at, path)]
    return join(blocks)


def _fields(message: DescriptorProto, at: Path, path: str) -> str:
    source = commented("model_config.proto")
    maps = {one.name: one for one in message.nested_type if one.options.map_entry}
    rows, passed_over = [], []
    for index, field in enumerate(message.field):
        meaning = plain(source.at(*at, FIELDS, index))
        if field.name in REFUSED.get(message.name, ()):
            rows.append([code(field.name), "", f"**Refused.** {meaning}"])
        elif not reads(message.name, field.name):
            passed_over.append(code(field.name))
        elif meaning:
            rows.append([code(field.name), _type(field, maps), meaning])
        else:
            where = f"{path}.{field.name}".lstrip(".")
            raise Undocumented(f"{where}: give it a comment in protos/model_config.proto")
    others = f"Parsed and named in a warning: {', '.join(passed_over)}." if passed_over else ""
    return join([table(["field", "type", "meaning"], rows), others])


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    """The type of a field; the values of an enum, the fields of a message without a section."""
    kind = field_type(field, maps, linked=False)
    name = field.type_name.rpartition(".")[2]
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        values = [code(value) for value in _enums()[name]]
        return " ".join(values) if len(values) <= _SHOWN else f"{values[1]} … {values[-1]}"
    if name in _READ:
        words = "list of " if kind.startswith("list") else ""
        return f"{words}[{code(_READ[name])}](#{_anchor(name)})"
    message = {one.name: one for one, _ in _messages()}.get(name)
    if message is None or name in maps:
        return kind
    if not message.field:
        return "{ }"
    return "{ " + ", ".join(code(inner.name) for inner in message.field) + " }"


def _anchor(message: str) -> str:
    return f"message-{message.lower()}"


def _enums() -> dict[str, list[str]]:
    file = commented("model_config.proto").file
    enums = [*file.enum_type, *(enum for message, _ in _messages() for enum in message.enum_type)]
    return {enum.name: [value.name for value in enum.value] for enum in enums}


def _messages() -> list[tuple[DescriptorProto, Path]]:
    """Every message of the grammar, the nested ones too, with its path in the file."""
    found: list[tuple[DescriptorProto, Path]] = []

    def visit(message: DescriptorProto, at: Path) -> None:
        found.append((message, at))
        for index, nested in enumerate(message.nested_type):
            visit(nested, (*at, NESTED, index))

    for index, message in enumerate(commented("model_config.proto").file.message_type):
        visit(message, (MESSAGES, index))
    return found

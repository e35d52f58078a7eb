"""The services and messages of the protos, with their comments."""

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
)

from scripts.reference.comments import (
    ENUMS,
    FIELDS,
    MESSAGES,
    METHODS,
    NESTED,
    NESTED_ENUMS,
    SERVICES,
    VALUES,
    Commented,
    commented,
)
from scripts.reference.text import Undocumented, code, join, plain, table

_INTRODUCTION = """\
# Protos

The services on the gRPC port. Stubs for any language are made of the files in `protos/`
([how](../clients/other-languages.md)); reflection gives them from a running server.
"""
_FILES = {
    "vision.proto": "VisionService",
    "grpc_service.proto": "Open Inference Protocol",
}
Path = tuple[int, ...]


def page() -> str:
    """The page."""
    blocks = [_INTRODUCTION]
    for name, title in _FILES.items():
        source = commented(name)
        blocks += [f"## {title} {{ #{name.partition('.')[0].replace('_', '-')} }}", _file(source)]
    blocks.append(
        "`model_config.proto`, the grammar of `config.pbtxt`, has "
        "[a page of its own](config-pbtxt.md)."
    )
    return join(blocks)


def _file(source: Commented) -> str:
    file = source.file
    blocks = [f"Package `{file.package}`."]
    requests = {message.name: index for index, message in enumerate(file.message_type)}
    for index, service in enumerate(file.service):
        blocks.append(plain(source.at(SERVICES, index)))
        rows = []
        for number, method in enumerate(service.method):
            wanted = source.at(SERVICES, index, METHODS, number)
            if not wanted and (name := _name(method.input_type)) in requests:
                wanted = source.at(MESSAGES, requests[name])
            if not wanted:
                raise Undocumented(f"method {method.name}: give it or its request a comment")
            rows.append([code(method.name), *_ways(method), plain(wanted)])
        blocks.append(table(["method", "request", "response", "meaning"], rows))
    for index, message in enumerate(file.message_type):
        blocks += _message(source, message, (MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        blocks += _enum(source, enum, (ENUMS, index))
    return join(blocks)


def _ways(method: MethodDescriptorProto) -> list[str]:
    ways = (
        (method.input_type, method.client_streaming),
        (method.output_type, method.server_streaming),
    )
    return [("stream of " if stream else "") + _linked(kind) for kind, stream in ways]


def _message(source: Commented, message: DescriptorProto, at: Path, within: str = "") -> list[str]:
    name = within + message.name
    blocks = [f"### {name} {{ #{_anchor(name)} }}", plain(source.at(*at))]
    maps = {one.name: one for one in message.nested_type if one.options.map_entry}
    rows = []
    for index, field in enumerate(message.field):
        rows.append([
            code(field.name), field_type(field, maps), str(field.number),
            plain(source.at(*at, FIELDS, index)) + _choice(message, field),
        ])  # fmt: skip
    blocks.append(table(["field", "type", "number", "meaning"], rows) if rows else "No fields.")
    for index, nested in enumerate(message.nested_type):
        if nested.name not in maps:
            blocks += _message(source, nested, (*at, NESTED, index), name + ".")
    for index, enum in enumerate(message.enum_type):
        blocks += _enum(source, enum, (*at, NESTED_ENUMS, index), name + ".")
    return blocks


def _enum(source: Commented, enum: EnumDescriptorProto, at: Path, within: str = "") -> list[str]:
    rows = [
        [code(value.name), str(value.number), plain(source.at(*at, VALUES, index))]
        for index, value in enumerate(enum.value)
    ]
    name = within + enum.name
    return [
        f"### {name} {{ #{_anchor(name)} }}",
        plain(source.at(*at)),
        table(["value", "number", "meaning"], rows),
    ]


def field_type(
    field: FieldDescriptorProto, maps: dict[str, DescriptorProto], *, linked: bool = True
) -> str:
    """The type of a field in words."""
    if field.type_name and (entry := maps.get(_name(field.type_name).rpartition(".")[2])):
        key, value = entry.field
        types = [field_type(one, {}, linked=linked) for one in (key, value)]
        return f"map of {types[0]} to {types[1]}"
    if field.type_name:
        kind = _linked(field.type_name) if linked else code(_name(field.type_name))
    else:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {kind}" if repeated else kind


def _choice(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if not field.HasField("oneof_index"):
        return ""
    return f" (one of `{message.oneof_decl[field.oneof_index].name}`)"


def _name(full: str) -> str:
    """The name of a message without its package: .convserve.vision.v1.Image is Image."""
    return ".".join(word for word in full.split(".") if word[:1].isupper())


def _anchor(name: str) -> str:
    return "message-" + name.replace(".", "-").lower()


def _linked(full: str) -> str:
    name = _name(full)
    if full.startswith(".google.") or name in ("ModelConfig",):
        return code(name)
    return f"[{name}](#{_anchor(name)})"

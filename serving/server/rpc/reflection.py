"""Server reflection: tells the messages of the services to tools that do not know them."""

from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    DESCRIPTOR,
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import PROBE_BYTES, bounded, parsed
from serving.server.rpc.call import caller_of
from serving.server.rpc.methods import streaming
from serving.server.wire.interface import Call, Method

SERVICE = cast("ServiceDescriptor", DESCRIPTOR.services_by_name["ServerReflection"])
# Its newer version has the same messages in another package.
_V1ALPHA, _V1 = ".grpc.reflection.v1alpha.", ".grpc.reflection.v1."
_INFO = "ServerReflectionInfo"


class Reflection:
    """Lists some services and itself, in both versions, and describes all that protobuf knows
    here."""

    def __init__(self, front: Front, services: Iterable[ServiceDescriptor]) -> None:
        self._front = front
        self._pool = descriptor_pool.Default()
        self._own = (SERVICE.full_name, _newer(self._pool).full_name)
        self._names = sorted((*(service.full_name for service in services), *self._own))

    def methods(self) -> dict[str, Method]:
        """The method, by its paths."""
        method = streaming(self._reflect)._replace(most=PROBE_BYTES)
        return {f"/{name}/{_INFO}": method for name in self._own}

    async def _reflect(self, call: Call) -> None:
        while (data := await call.read()) is not None:
            self._front.ask("ServerReflection", caller_of(call), "metadata")
            request = parsed(ServerReflectionRequest.FromString, bounded(data, PROBE_BYTES))
            try:
                answer = self._answer(request)
            except KeyError:
                answer = _failed(grpc.StatusCode.NOT_FOUND)
            answer.original_request.CopyFrom(request)
            await call.write(answer.SerializeToString())

    def _answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Raises KeyError for a name that protobuf does not know."""
        pool = self._pool
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [ServiceResponse(name=name) for name in self._names]
                listed = ListServiceResponse(service=services)
                return ServerReflectionResponse(list_services_response=listed)
            case "file_by_filename":
                return _described(pool.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                return _described(pool.FindFileContainingSymbol(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                extended = pool.FindMessageTypeByName(asked.containing_type)
                extension = pool.FindExtensionByNumber(extended, asked.extension_number)
                return _described(pool.FindFileContainingSymbol(extension.full_name))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                found = pool.FindAllExtensions(pool.FindMessageTypeByName(name))
                numbers = ExtensionNumberResponse(
                    base_type_name=name, extension_number=sorted(each.number for each in found)
                )
                return ServerReflectionResponse(all_extension_numbers_response=numbers)
            case _:
                return _failed(grpc.StatusCode.INVALID_ARGUMENT)


def _newer(pool: descriptor_pool.DescriptorPool) -> ServiceDescriptor:
    """The service of the newer version, whose file grpcio-reflection does not have."""
    name = SERVICE.full_name.replace(_V1ALPHA[1:], _V1[1:])
    try:
        return pool.FindServiceByName(name)
    except KeyError:
        pass
    file = FileDescriptorProto()
    DESCRIPTOR.CopyToProto(file)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = _V1.strip(".")
    for field in (field for message in file.message_type for field in message.field):
        if field.type_name:
            field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in (method for service in file.service for method in service.method):
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    pool.Add(file)
    return pool.FindServiceByName(name)


def _described(file: FileDescriptor) -> ServerReflectionResponse:
    """A file and all that it imports."""
    files: dict[str, bytes] = {}

    def add(one: FileDescriptor) -> None:
        if one.name not in files:
            proto = FileDescriptorProto()
            one.CopyToProto(proto)
            files[one.name] = proto.SerializeToString()
            for imported in one.dependencies:
                add(imported)

    add(file)
    found = FileDescriptorResponse(file_descriptor_proto=files.values())
    return ServerReflectionResponse(file_descriptor_response=found)


def _failed(code: grpc.StatusCode) -> ServerReflectionResponse:
    number, text = code.value
    failed = ErrorResponse(error_code=number, error_message=text)
    return ServerReflectionResponse(error_response=failed)

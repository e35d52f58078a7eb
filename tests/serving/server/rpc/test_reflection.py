"""Reflection, by the messages that tools send: both versions of the protocol."""

import asyncio
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.models.catalogue import Catalogue
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import PROBE_BYTES
from serving.server.rpc import inference, vision
from serving.server.rpc.reflection import Reflection
from serving.server.wire.interface import End

# Nobody decides about callers here.
FRONT = Front(cast("Catalogue", None), FrontMetrics(), MemoryBudget(1))
V1, V1ALPHA = (
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
)


class Asking:
    """A call that sends these messages."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = iter(messages)
        self.answers: list[ServerReflectionResponse] = []

    async def read(self) -> bytes | None:
        return next(self._messages, None)

    async def write(self, message: bytes) -> None:
        self.answers.append(ServerReflectionResponse.FromString(message))


def asked(*requests: ServerReflectionRequest, path: str = V1) -> list[ServerReflectionResponse]:
    methods = Reflection(FRONT, (inference.SERVICE, vision.SERVICE)).methods()
    call = Asking(*(request.SerializeToString() for request in requests))
    asyncio.run(cast("Any", methods[path].run(cast("Any", call))))
    return call.answers


@pytest.mark.parametrize("path", [V1, V1ALPHA])
def test_both_versions_list_the_services(path: str) -> None:
    request = ServerReflectionRequest(list_services="*", host="h")
    [answer] = asked(request, path=path)
    assert answer.original_request == request
    assert [service.name for service in answer.list_services_response.service] == [
        "convserve.vision.v1.VisionService",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


def test_a_symbol_is_described_with_all_that_its_file_imports() -> None:
    by_symbol = ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest")
    by_name = ServerReflectionRequest(file_by_filename="grpc_service.proto")
    first, second = asked(by_symbol, by_name)
    files = {
        FileDescriptorProto.FromString(data).name: FileDescriptorProto.FromString(data)
        for data in first.file_descriptor_response.file_descriptor_proto
    }
    assert files.keys() == {"grpc_service.proto", "model_config.proto"}
    assert "GRPCInferenceService" in [each.name for each in files["grpc_service.proto"].service]
    assert second.file_descriptor_response == first.file_descriptor_response


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_it_describes_itself_in_both_versions(version: str) -> None:
    package = f"grpc.reflection.{version}"
    [answer] = asked(ServerReflectionRequest(file_containing_symbol=f"{package}.ServerReflection"))
    [data] = answer.file_descriptor_response.file_descriptor_proto
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(data)
    method = pool.FindMethodByName(f"{package}.ServerReflection.ServerReflectionInfo")
    assert method.input_type.full_name == f"{package}.ServerReflectionRequest"


def test_extensions_are_described() -> None:
    kind = "google.protobuf.MessageOptions"
    numbers, missing = asked(
        ServerReflectionRequest(all_extension_numbers_of_type=kind),
        ServerReflectionRequest(
            file_containing_extension=ExtensionRequest(containing_type=kind, extension_number=7)
        ),
    )
    assert numbers.all_extension_numbers_response.base_type_name == kind
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    "request_",
    [
        ServerReflectionRequest(file_by_filename="none.proto"),
        ServerReflectionRequest(file_containing_symbol="no.Such"),
        ServerReflectionRequest(file_containing_symbol="\0\n"),
        ServerReflectionRequest(all_extension_numbers_of_type="no.Such"),
        ServerReflectionRequest(file_containing_extension=ExtensionRequest(containing_type="x")),
    ],
)
def test_unknown_names_are_not_found_and_the_stream_goes_on(
    request_: ServerReflectionRequest,
) -> None:
    missing, listed = asked(request_, ServerReflectionRequest(list_services=""))
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert listed.list_services_response.service


def test_a_request_for_nothing_is_bad_input() -> None:
    [answer] = asked(ServerReflectionRequest())
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("data", [b"\xff", b"\x0a" + bytes(PROBE_BYTES)])
def test_bytes_that_are_no_request_end_the_stream(data: bytes) -> None:
    method = Reflection(FRONT, ()).methods()[V1]
    with pytest.raises(End) as caught:
        asyncio.run(cast("Any", method.run(cast("Any", Asking(data)))))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT

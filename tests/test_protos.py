"""The wire: the same descriptors as the public protocol's client, and the names of our service."""

import pytest
import tritonclient.grpc.model_config_pb2
import tritonclient.grpc.service_pb2
from google.protobuf.descriptor import FileDescriptor

from protos.gen import grpc_service_pb2, model_config_pb2, vision_pb2

CALLS = ("Classify", "Segment", "Embed")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (grpc_service_pb2.DESCRIPTOR, tritonclient.grpc.service_pb2.DESCRIPTOR),
        (model_config_pb2.DESCRIPTOR, tritonclient.grpc.model_config_pb2.DESCRIPTOR),
    ],
    ids=["grpc_service", "model_config"],
)
def test_descriptors_equal_those_of_tritonclient(
    ours: FileDescriptor, theirs: FileDescriptor
) -> None:
    assert ours.name == theirs.name
    assert ours.package == "inference"
    assert ours.serialized_pb == theirs.serialized_pb


def test_stubs_are_ours_and_not_those_of_tritonclient() -> None:
    assert grpc_service_pb2 is not tritonclient.grpc.service_pb2
    assert grpc_service_pb2.__name__ == "protos.gen.grpc_service_pb2"


def test_vision_service_has_each_call_alone_and_as_a_stream() -> None:
    service = vision_pb2.DESCRIPTOR.services_by_name["VisionService"]
    assert service.full_name == "convserve.vision.v1.VisionService"
    assert set(service.methods_by_name) == {*CALLS, *(f"{call}Stream" for call in CALLS)}
    for call in CALLS:
        for name, streams in ((call, False), (f"{call}Stream", True)):
            method = service.methods_by_name[name]
            assert method.input_type.full_name == f"convserve.vision.v1.{call}Request"
            assert method.output_type.full_name == f"convserve.vision.v1.{call}Response"
            assert (method.client_streaming, method.server_streaming) == (streams, streams)


@pytest.mark.parametrize("call", CALLS)
def test_requests_and_answers_share_their_first_fields(call: str) -> None:
    messages = vision_pb2.DESCRIPTOR.message_types_by_name
    request, response = (
        {field.name: field.number for field in messages[call + end].fields}
        for end in ("Request", "Response")
    )
    shared = {"model": 1, "version": 2, "images": 3, "options": 4}
    assert {name: request[name] for name in shared} == shared
    assert response == {"served": 1, "results": 2}

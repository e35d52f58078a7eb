"""Registers services at grpc.aio."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message


def service_handler(
    service: ServiceDescriptor, servicer: object, **otherwise: Callable[..., Any]
) -> grpc.GenericRpcHandler:
    """One handler for the methods of a service that `servicer` has; the others are UNIMPLEMENTED.

    Requests reach them as they came. `otherwise` are methods by name that also answer in bytes.

    The generated `add_..._to_server` would register each method by itself as well. grpc.aio asks
    for calls of each registered method in a task of its own, and with every call waits anew for all
    of these tasks: 20 us with our 30 methods. A generic handler has one.
    """
    methods: dict[str, Any] = {}
    for method in service.methods:
        if method.name in otherwise:
            methods[method.name] = _maker(method)(otherwise[method.name])
        elif hasattr(servicer, method.name):
            behaviour = getattr(servicer, method.name)
            methods[method.name] = _maker(method)(behaviour, response_serializer=_serialised)
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _maker(method: MethodDescriptor) -> Callable[..., Any]:
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler
    return grpc.unary_unary_rpc_method_handler


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()

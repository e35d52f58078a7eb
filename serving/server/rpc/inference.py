"""GRPCInferenceService: the Open Inference Protocol v2 with Triton's extensions."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc
from serving.base.errors import InvalidInput, NotOffered, ServingError
from serving.models.registry import Registry
from serving.models.servable import ModelFacts
from serving.server.endpoints.front import Call
from serving.server.endpoints.oip import (
    EXTENSIONS,
    NO_CUDA_MEMORY,
    SERVER_NAME,
    InferCall,
    Protocol,
    described,
)
from serving.server.rpc import repository, statistics
from serving.server.rpc.call import Context, admin_call, stream, unary
from serving.server.rpc.codec import (
    decode_call,
    decode_log_settings,
    encode_answer,
    encode_stream_answer,
)
from serving.server.rpc.status import abort
from serving.server.rpc.wire import read_request


class InferenceService(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Converts, calls, converts. What it does not override answers UNIMPLEMENTED."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._front = protocol.front

    @property
    def _registry(self) -> Registry:
        return self._front.registry

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """The event loop answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Whether calls should be sent here."""
        return pb.ServerReadyResponse(ready=self._protocol.is_ready())

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether this model, or this version of it, serves; false for one that is not known."""
        ready = self._registry.ready_versions(request.name)
        wanted = request.version in ready if request.version else bool(ready)
        return pb.ModelReadyResponse(ready=wanted)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions on offer."""
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=self._protocol.version, extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs with their shapes."""
        facts = await self._facts(request.name, request.version, context)
        response = pb.ModelMetadataResponse(
            name=facts.name,
            versions=self._registry.ready_versions(facts.name),
            platform=facts.config.platform,
        )
        for tensors, target in ((facts.inputs, response.inputs), (facts.outputs, response.outputs)):
            for spec in tensors:
                target.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """config.pbtxt as it was read; `parameters` say also what serves and how good it is."""
        facts = await self._facts(request.name, request.version, context)
        response = pb.ModelConfigResponse(config=facts.config.proto)
        response.config.name = facts.name
        for key, value in described(facts).items():
            response.config.parameters[key].string_value = value
        return response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters and times of one model, or of all."""
        if request.name:
            await self._facts(request.name, request.version, context)
        return statistics.read(self._registry, request.name, request.version)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model with its state and, where it does not serve, the reason."""
        return await repository.index(self._registry, ready_only=request.ready)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads or reloads a model from the repository."""
        async with admin_call(context, self._protocol.admin) as admin:
            admin.require_explicit()
            await repository.load(self._registry, request)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Takes a model out of service once its accepted calls are answered."""
        async with admin_call(context, self._protocol.admin) as admin:
            admin.require_explicit()
            await self._registry.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The registered regions, or one of them."""
        response = pb.SystemSharedMemoryStatusResponse()
        async with admin_call(context, self._protocol.admin):
            for region in self._protocol.memory.regions(request.name):
                response.regions[region.name].CopyFrom(
                    pb.SystemSharedMemoryStatusResponse.RegionStatus(
                        name=region.name,
                        key=region.key,
                        offset=region.offset,
                        byte_size=region.byte_size,
                    )
                )
        return response

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Maps a region that the caller has made on this machine."""
        async with admin_call(context, self._protocol.admin):
            self._protocol.memory.register(
                request.name, request.key, request.offset, request.byte_size
            )
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets a region, or all."""
        async with admin_call(context, self._protocol.admin):
            self._protocol.memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        """None can be registered, so none is."""
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """UNIMPLEMENTED."""
        await abort(context, NotOffered(NO_CUDA_MEMORY))

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """There is nothing to forget, which is no error when all are meant."""
        if request.name:
            await abort(context, NotOffered(NO_CUDA_MEMORY))
        return pb.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(
        self, request: pb.TraceSettingRequest, context: Context
    ) -> pb.TraceSettingResponse:
        """Changes what is named and reads all."""
        tracer = self._protocol.tracer
        if request.model_name:
            await self._facts(request.model_name, "", context)
        if request.settings:
            async with admin_call(context, self._protocol.admin):
                tracer.update(
                    {name: value.value for name, value in request.settings.items()},
                    request.model_name,
                )
        response = pb.TraceSettingResponse()
        for name, values in tracer.read(request.model_name).items():
            response.settings[name].value.extend(values)
        return response

    async def LogSettings(
        self, request: pb.LogSettingsRequest, context: Context
    ) -> pb.LogSettingsResponse:
        """Changes what is named and reads all."""
        logs = self._protocol.logs
        if request.settings:
            async with admin_call(context, self._protocol.admin):
                logs.update(decode_log_settings(request.settings))
        response = pb.LogSettingsResponse()
        for name, value in logs.read().items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(response.settings[name], kind, value)
        return response

    def tensor_handler(self) -> grpc.GenericRpcHandler:
        """ModelInfer and ModelStreamInfer, which take and give serialised messages."""
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
        methods: dict[str, Any] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self.infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.stream_infer),
        }
        return grpc.method_handlers_generic_handler(service, methods)

    async def infer(self, request: bytes, context: Context) -> bytes:
        """One inference call: a ModelInferRequest, answered by a ModelInferResponse."""
        return await unary(self._front, "ModelInfer", request, context, self._answer)

    async def stream_infer(self, _: AsyncIterator[bytes], context: Context) -> None:
        """Many inference calls over one stream, answered in their order."""
        await stream(self._front, "ModelStreamInfer", context, self._stream_answer, _failed)

    async def _answer(self, data: bytes, call: Call) -> bytes:
        return b"".join(encode_answer(await self._protocol.infer(self._read(data, call), call)))

    async def _stream_answer(self, data: bytes, call: Call) -> bytes:
        answer = await self._protocol.infer(self._read(data, call), call)
        return encode_stream_answer(encode_answer(answer))

    def _read(self, data: bytes, call: Call) -> InferCall:
        request = read_request(data)
        call.id = request.id
        return decode_call(request, self._protocol.memory)

    async def _facts(self, name: str, version: str, context: Context) -> ModelFacts:
        try:
            return self._registry.get(name, version).facts
        except ServingError as error:
            await abort(context, error)


def _failed(data: bytes, error: ServingError) -> bytes:
    response = pb.ModelStreamInferResponse(error_message=str(error))
    with contextlib.suppress(InvalidInput):
        response.infer_response.id = read_request(data).id
    return response.SerializeToString()

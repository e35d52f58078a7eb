"""GRPCInferenceService: the Open Inference Protocol v2 with Triton's extensions."""

import contextlib
import math
from dataclasses import asdict

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput, ServingError
from serving.server.endpoints.admin_calls import AdminCalls, no_cuda_memory
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import PROBE_BYTES, bounded, parsed, parsed_in_turns
from serving.server.endpoints.health import Health
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.oip import InferAnswer, OpenInference
from serving.server.error_status import message_of
from serving.server.rpc.call import caller_of, control_call, inference_call
from serving.server.rpc.codec import (
    decode_load_parameters,
    decode_log_settings,
    decode_request,
    encode_answer,
    read_head,
)
from serving.server.rpc.conversation import Conversation
from serving.server.rpc.methods import methods_of
from serving.server.rpc.request_parts import read_request
from serving.server.wire.interface import Call, Method

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class InferenceService:
    """Converts, calls, converts. Each method takes a serialised request."""

    def __init__(
        self,
        front: Front,
        inference: OpenInference,
        inspection: Inspection,
        admin: AdminCalls,
        health: Health,
    ) -> None:
        self._front = front
        self._inference = inference
        self._inspection = inspection
        self._admin = admin
        self._health = health

    def methods(self) -> dict[str, Method]:
        """The methods of the service, by path."""
        return methods_of(
            SERVICE,
            self,
            self._admit,
            ("ServerLive", "ServerReady", "ModelReady"),
            ModelInfer=self.infer,
            ModelStreamInfer=self.stream_infer,
        )

    def _admit(self, method: str, rpc: Call) -> None:
        opened = self._front.call if method == "ModelInfer" else self._front.control
        self._front.meet(opened(method, caller_of(rpc)))

    # Inference.

    async def infer(self, data: bytes, rpc: Call) -> bytes:
        """One ModelInferRequest, answered by a ModelInferResponse."""
        with inference_call(self._front, "ModelInfer", data, rpc) as call:
            answer = await self._answer(call, data)
            return await encode_answer(answer, self._inference)

    async def stream_infer(self, rpc: Call) -> None:
        """Many requests over one stream, answered in their order."""
        deadline, caller = rpc.deadline, caller_of(rpc)

        async def answered(data: bytes) -> bytes:
            try:
                with self._front.call("ModelStreamInfer", caller, len(data), deadline) as call:
                    answer = await self._answer(call, data)
                    return await encode_answer(answer, self._inference, streamed=True)
            except ServingError as error:
                return _failed(data, error)

        await Conversation(self._front, "ModelStreamInfer", rpc, answered).run()

    async def _answer(self, call: InferenceCall, data: bytes) -> InferAnswer:
        request = parsed(read_request, data)
        call.id = request.id
        head = parsed(read_head, request)
        model = call.resolve(head.model, head.version)
        decoding = decode_request(request, head, call, model.facts, self._inference)
        return await self._inference.infer(call, model, await parsed_in_turns(decoding))

    # Health.

    async def ServerLive(self, _: bytes, rpc: Call) -> pb.ServerLiveResponse:
        """The event loop answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: bytes, rpc: Call) -> pb.ServerReadyResponse:
        """True where calls should be sent here."""
        return pb.ServerReadyResponse(ready=self._health.ready())

    async def ModelReady(self, data: bytes, rpc: Call) -> pb.ModelReadyResponse:
        """True where this model, or this version of it, serves; false for an unknown one."""
        request = parsed(pb.ModelReadyRequest.FromString, bounded(data, PROBE_BYTES))
        seen = self._front.seen_by(caller_of(rpc))(request.name)
        ready = seen and self._health.model_ready(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    # The server and its models.

    async def ServerMetadata(self, data: bytes, rpc: Call) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions on offer."""
        with control_call(self._front, "ServerMetadata", data, rpc) as call:
            parsed(pb.ServerMetadataRequest.FromString, data)
            return pb.ServerMetadataResponse(**asdict(self._inspection.server(call)))

    async def ModelMetadata(self, data: bytes, rpc: Call) -> pb.ModelMetadataResponse:
        """Inputs and outputs with their shapes."""
        with control_call(self._front, "ModelMetadata", data, rpc) as call:
            request = parsed(pb.ModelMetadataRequest.FromString, data)
            found = self._inspection.model(call, request.name, request.version)
            return pb.ModelMetadataResponse(**asdict(found))

    async def ModelConfig(self, data: bytes, rpc: Call) -> pb.ModelConfigResponse:
        """config.pbtxt as it was read; `parameters` say also what serves and how good it is."""
        with control_call(self._front, "ModelConfig", data, rpc) as call:
            request = parsed(pb.ModelConfigRequest.FromString, data)
            config = self._inspection.config(call, request.name, request.version)
            return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(self, data: bytes, rpc: Call) -> pb.ModelStatisticsResponse:
        """Counters and times of one model, or of all."""
        with control_call(self._front, "ModelStatistics", data, rpc) as call:
            request = parsed(pb.ModelStatisticsRequest.FromString, data)
            found = await self._inspection.statistics(call, request.name, request.version)
            return pb.ModelStatisticsResponse(model_stats=[asdict(line) for line in found])

    async def RepositoryIndex(self, data: bytes, rpc: Call) -> pb.RepositoryIndexResponse:
        """Every model with its state and, where it does not serve, the reason."""
        with control_call(self._front, "RepositoryIndex", data, rpc) as call:
            request = parsed(pb.RepositoryIndexRequest.FromString, data)
            response = pb.RepositoryIndexResponse()
            for line in await self._inspection.index(call, ready_only=request.ready):
                response.models.add(
                    name=line.name, version=line.version, state=line.state.value, reason=line.reason
                )
            return response

    # Administration.

    async def RepositoryModelLoad(self, data: bytes, rpc: Call) -> pb.RepositoryModelLoadResponse:
        """Loads or reloads a model from the repository."""
        # Whoever may load may send files, as large as a message.
        with control_call(self._front, "RepositoryModelLoad", data, rpc, math.inf) as call:
            self._admin.permit(call, "repository")
            request = parsed(pb.RepositoryModelLoadRequest.FromString, data)
            override = parsed(decode_load_parameters, request.parameters)
            await self._admin.load(call, request.model_name, override)
            return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, data: bytes, rpc: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Takes a model out of service once its accepted calls are answered."""
        with control_call(self._front, "RepositoryModelUnload", data, rpc) as call:
            request = parsed(pb.RepositoryModelUnloadRequest.FromString, data)
            await self._admin.unload(call, request.model_name)
            return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, data: bytes, rpc: Call
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The registered regions, or one of them."""
        with control_call(self._front, "SystemSharedMemoryStatus", data, rpc) as call:
            request = parsed(pb.SystemSharedMemoryStatusRequest.FromString, data)
            regions = self._admin.regions(call, request.name)
            status = pb.SystemSharedMemoryStatusResponse.RegionStatus
            return pb.SystemSharedMemoryStatusResponse(
                regions={region.name: status(**asdict(region)) for region in regions}
            )

    async def SystemSharedMemoryRegister(
        self, data: bytes, rpc: Call
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Registers a region that the caller has made on this machine."""
        with control_call(self._front, "SystemSharedMemoryRegister", data, rpc) as call:
            asked = parsed(pb.SystemSharedMemoryRegisterRequest.FromString, data)
            self._admin.register(call, asked.name, asked.key, asked.offset, asked.byte_size)
            return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, data: bytes, rpc: Call
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets a region, or all."""
        with control_call(self._front, "SystemSharedMemoryUnregister", data, rpc) as call:
            request = parsed(pb.SystemSharedMemoryUnregisterRequest.FromString, data)
            self._admin.unregister(call, request.name)
            return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, data: bytes, rpc: Call
    ) -> pb.CudaSharedMemoryStatusResponse:
        """None can be registered, so none is."""
        with control_call(self._front, "CudaSharedMemoryStatus", data, rpc):
            parsed(pb.CudaSharedMemoryStatusRequest.FromString, data)
            return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, data: bytes, rpc: Call
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """UNIMPLEMENTED."""
        with control_call(self._front, "CudaSharedMemoryRegister", data, rpc):
            parsed(pb.CudaSharedMemoryRegisterRequest.FromString, data)
            raise no_cuda_memory()

    async def CudaSharedMemoryUnregister(
        self, data: bytes, rpc: Call
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """There is nothing to forget, which is no error when all are meant."""
        with control_call(self._front, "CudaSharedMemoryUnregister", data, rpc):
            if parsed(pb.CudaSharedMemoryUnregisterRequest.FromString, data).name:
                raise no_cuda_memory()
            return pb.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(self, data: bytes, rpc: Call) -> pb.TraceSettingResponse:
        """Changes the settings that are named and reads all."""
        with control_call(self._front, "TraceSetting", data, rpc) as call:
            request = parsed(pb.TraceSettingRequest.FromString, data)
            changes = {name: list(given.value) for name, given in request.settings.items()}
            response = pb.TraceSettingResponse()
            settings = await self._admin.trace_settings(call, request.model_name, changes)
            for name, values in settings.items():
                response.settings[name].value.extend(values)
            return response

    async def LogSettings(self, data: bytes, rpc: Call) -> pb.LogSettingsResponse:
        """Changes the settings that are named and reads all."""
        with control_call(self._front, "LogSettings", data, rpc) as call:
            request = parsed(pb.LogSettingsRequest.FromString, data)
            changes = parsed(decode_log_settings, request.settings)
            response = pb.LogSettingsResponse()
            for name, value in (await self._admin.log_settings(call, changes)).items():
                kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
                setattr(response.settings[name], kind, value)
            return response


def _failed(data: bytes, error: ServingError) -> bytes:
    response = pb.ModelStreamInferResponse(error_message=message_of(error))
    with contextlib.suppress(InvalidInput):
        response.infer_response.id = parsed(read_request, data).id
    return response.SerializeToString()

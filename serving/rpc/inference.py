"""GRPCInferenceService: the Open Inference Protocol v2 with Triton's extensions."""

import json
from collections.abc import AsyncIterator, Mapping

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc
from serving.errors import InvalidInput, NotAllowed, ServingError
from serving.model import ENCODED_INPUT, CallOptions, Model
from serving.registry import Registry
from serving.rpc import repository, statistics
from serving.rpc.call import Call, Context, Front
from serving.rpc.codec import decode_inputs, encode_outputs
from serving.rpc.status import abort
from serving.tensor import Array, TensorSpec

SERVER_NAME = "convserve"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
# Said in a model's config; never declared as an input, which plain servers would refuse.
ENCODED_PARAMETER = "encoded_image_input"


class InferenceService(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Converts, calls, converts. What it does not override answers UNIMPLEMENTED."""

    def __init__(
        self,
        front: Front,
        *,
        version: str,
        strict_readiness: bool,
        explicit_control: bool,
        allow_admin: bool,
    ) -> None:
        self._front = front
        self._version = version
        self._strict = strict_readiness
        self._explicit = explicit_control
        self._allow_admin = allow_admin
        self.draining = False

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
        ready = not self.draining and self._registry.ready(self._strict)
        return pb.ServerReadyResponse(ready=ready)

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
            name=SERVER_NAME, version=self._version, extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs with their shapes."""
        model = await self._model(request.name, request.version, context)
        response = pb.ModelMetadataResponse(
            name=model.name,
            versions=self._registry.ready_versions(model.name),
            platform=model.config.platform,
        )
        for tensors, target in ((model.inputs, response.inputs), (model.outputs, response.outputs)):
            for spec in tensors:
                target.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """config.pbtxt as it was read; `parameters` say also what serves and how good it is."""
        model = await self._model(request.name, request.version, context)
        response = pb.ModelConfigResponse(config=model.config.proto)
        response.config.name = model.name
        for key, value in _described(model).items():
            response.config.parameters[key].string_value = value
        return response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters and times of one model, or of all."""
        if request.name:
            await self._model(request.name, request.version, context)
        return statistics.read(self._registry, request.name, request.version)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model with its state and, where it does not serve, the reason."""
        return repository.index(self._registry, ready_only=request.ready)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads or reloads a model from the repository."""
        try:
            self._check_admin(context)
            await repository.load(self._registry, request)
        except ServingError as error:
            await abort(context, error)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Takes a model out of service once its accepted calls are answered."""
        try:
            self._check_admin(context)
            await self._registry.unload(request.model_name)
        except ServingError as error:
            await abort(context, error)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """One inference call."""
        return await self._front.unary("ModelInfer", request, context, _infer)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Many inference calls over one stream, answered in their order."""
        responses = self._front.stream(
            "ModelStreamInfer", requests, context, _infer_streamed, _failed
        )
        async for response in responses:
            yield response

    async def _model(self, name: str, version: str, context: Context) -> Model:
        try:
            return self._registry.get(name, version)
        except ServingError as error:
            await abort(context, error)

    def _check_admin(self, context: Context) -> None:
        peer = context.peer()
        local = peer.startswith(("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:"))
        if not local and not self._allow_admin:
            raise NotAllowed(f"admin calls are refused from {peer}: --allow-admin permits them")
        if not self._explicit:
            raise NotAllowed("models are loaded by call only with --model-control explicit")


async def _infer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
    model = call.resolve(request.model_name, request.model_version)
    options = _options(request, call)
    inputs = decode_inputs(request)
    if ENCODED_INPUT in inputs and all(spec.name != ENCODED_INPUT for spec in model.inputs):
        answer = await model.infer_encoded(_images(model, inputs), options)
    else:
        answer = await model.infer(inputs, options)
    response = pb.ModelInferResponse(
        model_name=model.name, model_version=model.version, id=request.id
    )
    batched = model.config.max_batch_size > 0
    encode_outputs(
        response, request, _declared(model.outputs, answer.outputs), model.labels, batched
    )
    return response


async def _infer_streamed(request: pb.ModelInferRequest, call: Call) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(infer_response=await _infer(request, call))


def _failed(request: pb.ModelInferRequest, error: ServingError) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(
        error_message=str(error), infer_response=pb.ModelInferResponse(id=request.id)
    )


def _described(model: Model) -> dict[str, str]:
    """What a config's parameters say beside what the file says: what serves, and how good it is."""
    parameters = {"variant": model.variant, "engine": model.engine_name}
    if model.manifest is not None:
        parameters["task"] = model.manifest.task
        parameters["classes"] = "\n".join(model.labels)
        parameters[ENCODED_PARAMETER] = ENCODED_INPUT
        variant = next(v for v in model.manifest.variants if v.id == model.variant)
        evidence = variant.evidence.get(model.engine_name)
        if evidence is not None:
            parameters["accuracy"] = f"{model.manifest.measure} {evidence.accuracy}"
    latency = {size: round(s * 1e3, 3) for size, s in model.batcher.latency.measured.items()}
    parameters["latency_ms"] = json.dumps(latency)
    return parameters


def _declared(specs: tuple[TensorSpec, ...], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that the model promises, in that order."""
    return {spec.name: outputs[spec.name] for spec in specs}


def _images(model: Model, inputs: Mapping[str, Array]) -> list[bytes]:
    """The image files of the input `encoded`, BYTES [n] or [n, 1]."""
    encoded = inputs[ENCODED_INPUT]
    if len(inputs) > 1:
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} takes the place of every other, got {sorted(inputs)}"
        )
    if encoded.dtype != object or encoded.ndim not in (1, 2) or encoded.size != len(encoded):
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} of model {model.name!r}: expected BYTES [n] or [n, 1], "
            f"got {encoded.dtype} {list(encoded.shape)}"
        )
    return list(encoded.reshape(-1))


def _options(request: pb.ModelInferRequest, call: Call) -> CallOptions:
    """The parameters `priority` and `timeout` (microseconds); clients send either integer type."""
    values = {}
    for name in ("priority", "timeout"):
        parameter = request.parameters.get(name) if name in request.parameters else None
        kind = parameter.WhichOneof("parameter_choice") if parameter is not None else None
        if parameter is None:
            values[name] = 0
        elif kind in ("int64_param", "uint64_param"):
            values[name] = int(getattr(parameter, kind))
        else:
            raise InvalidInput(f"parameter {name}: expected an integer, got {kind}")
        if values[name] < 0:
            raise InvalidInput(f"parameter {name}: expected 0 or more, got {values[name]}")
    return call.options(values["priority"], values["timeout"] / 1e6)

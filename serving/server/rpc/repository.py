"""The protocol's view of the model repository."""

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.models.registry import Registry, State


async def index(registry: Registry, *, ready_only: bool) -> pb.RepositoryIndexResponse:
    """Every version with its state; with `ready_only` those that serve."""
    response = pb.RepositoryIndexResponse()
    for line in await registry.repository_index():
        if ready_only and line.state is not State.READY:
            continue
        response.models.add(
            name=line.name, version=line.version, state=line.state.value, reason=line.reason
        )
    return response


async def load(registry: Registry, request: pb.RepositoryModelLoadRequest) -> None:
    """Loads a model. Raises InvalidInput for a parameter of the wrong kind, and what loading
    raises."""
    override: dict[str, str | bytes] = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind not in ("string_param", "bytes_param"):
            raise InvalidInput(f"load parameter {name!r}: expected text or bytes")
        override[name] = getattr(parameter, kind)
    await registry.load(request.model_name, override)

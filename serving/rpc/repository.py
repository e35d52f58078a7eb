"""The protocol's view of the model repository."""

from protos.gen import grpc_service_pb2 as pb
from serving.errors import NotOffered
from serving.registry import Registry, State


def index(registry: Registry, *, ready_only: bool) -> pb.RepositoryIndexResponse:
    """Every version with its state; with `ready_only` those that serve."""
    response = pb.RepositoryIndexResponse()
    for line in registry.index():
        if ready_only and line.state is not State.READY:
            continue
        response.models.add(
            name=line.name, version=line.version, state=line.state.value, reason=line.reason
        )
    return response


async def load(registry: Registry, request: pb.RepositoryModelLoadRequest) -> None:
    """Loads a model as it lies in the repository. Raises NotOffered for overrides, ModelNotFound,
    ModelLoadError."""
    if request.parameters:
        raise NotOffered(
            f"overrides at load time are not offered: {sorted(request.parameters)}; "
            "publish the model into the repository instead"
        )
    await registry.load(request.model_name)

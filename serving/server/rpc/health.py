"""grpc.health.v1: of the server (service ""), of each service, and of each model by its name."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serving.models.registry import Registry
from serving.server.rpc.call import Context

# Asked for by name: whether the process works at all. It does while models load and calls drain.
LIVENESS = "live"


class HealthService(health_pb2_grpc.HealthServicer):
    """Answers from the registry's state at the moment of the question."""

    def __init__(self, registry: Registry, services: tuple[str, ...], strict: bool) -> None:
        self._registry = registry
        self._services = services
        self._strict = strict
        self._draining = False
        self._changed = asyncio.Event()
        registry.on_change(self._wake)

    def drain(self) -> None:
        """From now on nothing serves."""
        self._draining = True
        self._wake()

    def _wake(self) -> None:
        """Wakes every watcher: each waits for the event that is replaced here."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int | None:
        """A ServingStatus; None for a name that is neither a service nor a model."""
        if service == LIVENESS:
            stuck = bool(self._registry.stuck())
            return HealthCheckResponse.NOT_SERVING if stuck else HealthCheckResponse.SERVING
        if not service or service in self._services:
            ready = self._registry.ready(self._strict)
        elif any(line.name == service for line in self._registry.index()):
            ready = bool(self._registry.ready_versions(service))
        else:
            return None
        serving = ready and not self._draining
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """The state now; NOT_FOUND for an unknown name."""
        status = self._status(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service or model {request.service!r}"
            )
        return HealthCheckResponse(status=status)

    async def Watch(
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        """The state now and after every change; SERVICE_UNKNOWN for an unknown name."""
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            current = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if current != last:
                yield HealthCheckResponse(status=current)
                last = current
            await changed.wait()

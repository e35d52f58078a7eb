"""grpc.health.v1: of the server (service ""), of each service, and of each model by its name."""

import asyncio
from typing import cast

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from serving.base.errors import InvalidInput, ModelNotFound, quoted
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import PROBE_BYTES, bounded, parsed
from serving.server.endpoints.health import Health
from serving.server.rpc.call import caller_of
from serving.server.rpc.methods import methods_of
from serving.server.wire.interface import Call, Method

SERVICE = cast("ServiceDescriptor", DESCRIPTOR.services_by_name["Health"])
# Asked for by name: whether the process works at all. It does while models load and calls drain.
LIVENESS = "live"


class HealthService:
    """Answers from the state at the moment of the question. services: names that stand for the
    server as a whole, as the empty one does."""

    def __init__(self, front: Front, health: Health, services: tuple[str, ...]) -> None:
        self._front = front
        self._health = health
        self._services = services
        self._changed = asyncio.Event()
        health.catalogue.on_change(self._wake)

    def methods(self) -> dict[str, Method]:
        """The methods of the service, by path."""
        return methods_of(SERVICE, self)

    def drain(self) -> None:
        """Tells every watcher that nothing serves from now on."""
        self._health.draining = True
        self._wake()

    def _wake(self) -> None:
        """Wakes every watcher: each waits for the event that is replaced here."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str, call: Call) -> int | None:
        """A ServingStatus; None for a name that is neither a service nor a model that the caller
        may see."""
        health = self._health
        if service == LIVENESS:
            serving = not health.catalogue.stuck()
        elif not service or service in self._services:
            serving = health.ready()
        elif self._front.seen_by(caller_of(call))(service) and any(
            line.name == service for line in health.catalogue.index()
        ):
            serving = health.model_ready(service) and not health.draining
        else:
            return None
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING

    async def Check(self, data: bytes, call: Call) -> HealthCheckResponse:
        """The state now; NOT_FOUND for an unknown name."""
        request = parsed(HealthCheckRequest.FromString, bounded(data, PROBE_BYTES))
        status = self._status(request.service, call)
        if status is None:
            raise ModelNotFound(f"no service or model {quoted(request.service)}")
        return HealthCheckResponse(status=status)

    async def Watch(self, call: Call) -> None:
        """The state now and after every change; SERVICE_UNKNOWN for an unknown name."""
        data = await call.read()
        if data is None:
            raise InvalidInput("expected a message, got none")
        request = parsed(HealthCheckRequest.FromString, bounded(data, PROBE_BYTES))
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service, call)
            current = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if current != last:
                await call.write(HealthCheckResponse(status=current).SerializeToString())
                last = current
            await changed.wait()

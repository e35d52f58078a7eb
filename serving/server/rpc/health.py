"""grpc.health.v1: of the server (service ""), of each service, and of each model by its name."""

import asyncio
from typing import cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from serving.base.errors import InvalidInput, ModelNotFound, quoted
from serving.server.endpoints.guard import PROBE_BYTES, bounded, parsed
from serving.server.endpoints.health import Health
from serving.server.rpc.errors import abort
from serving.server.rpc.handlers import service_handler
from serving.server.rpc.traffic.transfers import Context, Stream, Transfers

SERVICE = cast("ServiceDescriptor", DESCRIPTOR.services_by_name["Health"])
# Asked for by name: whether the process works at all. It does while models load and calls drain.
LIVENESS = "live"


class HealthService:
    """Answers from the state at the moment of the question. services: names that stand for the
    server as a whole, as the empty one does."""

    def __init__(self, health: Health, services: tuple[str, ...]) -> None:
        self._health = health
        self._services = services
        self._changed = asyncio.Event()
        health.catalogue.on_change(self._wake)

    def handler(self, transfers: Transfers) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        return service_handler(SERVICE, self, transfers)

    def drain(self) -> None:
        """Tells every watcher that nothing serves from now on."""
        self._health.draining = True
        self._wake()

    def _wake(self) -> None:
        """Wakes every watcher: each waits for the event that is replaced here."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int | None:
        """A ServingStatus; None for a name that is neither a service nor a model."""
        health = self._health
        if service == LIVENESS:
            serving = not health.catalogue.stuck()
        elif not service or service in self._services:
            serving = health.ready()
        elif any(line.name == service for line in health.catalogue.index()):
            serving = health.model_ready(service) and not health.draining
        else:
            return None
        return HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING

    async def Check(self, data: bytes, context: Context) -> HealthCheckResponse:
        """The state now; NOT_FOUND for an unknown name."""
        request = parsed(HealthCheckRequest.FromString, bounded(data, PROBE_BYTES))
        status = self._status(request.service)
        if status is None:
            raise ModelNotFound(f"no service or model {quoted(request.service)}")
        return HealthCheckResponse(status=status)

    async def Watch(self, stream: Stream, context: Context) -> None:
        """The state now and after every change; SERVICE_UNKNOWN for an unknown name."""
        try:
            data = bounded(await stream.read(), PROBE_BYTES)
            request = parsed(HealthCheckRequest.FromString, data)
        except InvalidInput as error:
            await abort(context, error)
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            current = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if current != last:
                await stream.write(HealthCheckResponse(status=current).SerializeToString())
                last = current
            await changed.wait()

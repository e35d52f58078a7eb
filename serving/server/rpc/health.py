"""grpc.health.v1: of the server (service ""), of each service, and of each model by its name."""

import asyncio
from collections import deque
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
# Watchers that look in one round of the event loop: 20 us each, and 0.1 ms where a token is to be
# checked. More tell all sooner and hold up other calls for longer.
_A_ROUND = 50


class HealthService:
    """Answers from the state at the moment of the question. services: names that stand for the
    server as a whole, as the empty one does."""

    def __init__(self, front: Front, health: Health, services: tuple[str, ...]) -> None:
        self._front = front
        self._health = health
        self._services = services
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._due: deque[asyncio.Future[None]] = deque()
        health.catalogue.on_change(self._wake)

    def methods(self) -> dict[str, Method]:
        """The methods of the service, by path."""
        return methods_of(SERVICE, self, probes=("Check", "Watch"))

    def drain(self) -> None:
        """Tells every watcher that nothing serves from now on."""
        self._health.draining = True
        self._wake()

    def _wake(self) -> None:
        """Has every watcher look again, some in each round of the event loop: a caller may have
        tens of thousands."""
        telling = bool(self._due)
        self._due.extend(self._waiting)
        self._waiting.clear()
        if self._due and not telling:
            self._tell()

    def _tell(self) -> None:
        due = self._due
        for _ in range(min(_A_ROUND, len(due))):
            change = due.popleft()
            if not change.done():
                change.set_result(None)
        if due:
            asyncio.get_running_loop().call_soon(self._tell)

    def _status(self, service: str, call: Call) -> int | None:
        """A ServingStatus; None for a name that is neither a service nor a model that the caller
        may see."""
        health = self._health
        if service == LIVENESS:
            serving = not health.catalogue.stuck()
        elif not service or service in self._services:
            serving = health.ready()
        elif service in health.catalogue.entries and self._front.seen_by(caller_of(call))(service):
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
            change = asyncio.get_running_loop().create_future()
            self._waiting[change] = None
            try:
                status = self._status(request.service, call)
                current = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
                if current != last:
                    await call.write(HealthCheckResponse(status=current).SerializeToString())
                    last = current
                await change
            finally:
                self._waiting.pop(change, None)

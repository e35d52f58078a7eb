"""/livez and /readyz for probes, /debug/batches for people, /metrics for Prometheus."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from serving.base.counting.totals import Totals
from serving.base.errors import NotAllowed
from serving.models.catalogue import Catalogue, State
from serving.server.access.door import Visit
from serving.server.endpoints.front import Front
from serving.server.endpoints.health import Health
from serving.server.http.body import LARGEST
from serving.server.http.port import caller_of

# The media type of OpenMetrics, which alone has exemplars.
_OPENMETRICS = "application/openmetrics-text"


class Seen(CollectorRegistry):
    """The samples of another registry that the caller of a visit may see: of the models that he has
    the right to, and of himself among the callers; of all callers where he has it to all models."""

    def __init__(self, registry: CollectorRegistry, visit: Visit) -> None:
        super().__init__()
        self._registry = registry
        self._visit = visit
        grants = visit.rights.grants
        self._all = any("metrics" in one.actions and "*" in one.models for one in grants)

    def collect(self) -> Iterator[Metric]:
        """The families, also those of which no sample is left."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if self._shows(sample.labels)]
            yield family

    def _shows(self, labels: Mapping[str, str]) -> bool:
        model = labels.get("model", "")
        if model and "metrics" not in self._visit.rights.on(model):
            return False
        return self._all or labels.get("caller", self._visit.name) == self._visit.name


class _Open(Collector):
    """The families of a registry, as OpenMetrics takes them: a counter that is not named _total, as
    those of NVIDIA Triton, is of no known type there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The families."""
        for family in self._registry.collect():
            if family.type == "counter" and any(s.name == family.name for s in family.samples):
                family.type = "unknown"
            yield family


def add_probes(app: web.Application, health: Health, front: Front) -> None:
    """Adds probes, which everybody may ask. /readyz is 503 while not ready, with a line for each
    process of the server where there are several, and for each model that does not serve and of
    which the caller may know."""
    catalogue = health.catalogue

    async def livez(request: web.Request) -> web.Response:
        # A stuck event loop does not answer at all, which a probe counts as a failure too.
        stuck = catalogue.stuck()
        if not stuck:
            return web.Response(text="ok\n")
        sees = front.seen_by(partial(caller_of, request))
        seen = [line for line in stuck if sees(line.partition("/")[0])]
        return web.Response(text="\n".join(seen or ["stuck"]) + "\n", status=503)

    async def readyz(request: web.Request) -> web.Response:
        sees = front.seen_by(partial(caller_of, request))
        lines = [
            f"{line.name}{'/' + line.version if line.version else ''}: {line.state} {line.reason}"
            for line in catalogue.index()
            if line.state is not State.READY and sees(line.name)
        ]
        ready = health.ready()
        lines = [*health.processes(), *lines]
        text = "\n".join(["ready" if ready else "not ready", *lines]) + "\n"
        return web.Response(text=text, status=200 if ready else 503)

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)


def add_batches(app: web.Application, catalogue: Catalogue, front: Front) -> None:
    """Adds the last batches of every model on which the caller may debug."""

    async def batches(request: web.Request) -> web.Response:
        visit = front.ask("Batches", partial(caller_of, request), "debug")
        recent = {
            f"{model.facts.name}/{model.facts.version}": [
                asdict(record) for record in await model.recent_batches()
            ]
            for model in catalogue.models()
            if visit is None or "debug" in visit.rights.on(model.facts.name)
        }
        return web.json_response(recent)

    app.router.add_get("/debug/batches", batches)


def _written(registry: CollectorRegistry, asked_open: bool) -> tuple[bytes, str]:
    """All metrics as text, and the type of that."""
    if asked_open:
        body = openmetrics.generate_latest(_Open(registry))  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST


def metrics_app(
    totals: Totals, health: Health, front: Front, *, certified: bool = False
) -> web.Application:
    """An application that serves /metrics in Prometheus' text format, or as OpenMetrics to whoever
    accepts it, and the probes, which answer here also while callers have taken every connection of
    the other ports.

    certified: /metrics takes callers with a certificate only, probes take all.
    """

    one_at_a_time = asyncio.Lock()

    async def metrics(request: web.Request) -> web.Response:
        transport = request.transport
        if certified and not (transport and transport.get_extra_info("certificate")):
            raise NotAllowed("/metrics: expected a client certificate (--tls-client-ca)")
        visit = front.ask("Metrics", partial(caller_of, request), "metrics")
        await totals.refresh()
        registry = totals.registry if visit is None else Seen(totals.registry, visit)
        asked_open = _OPENMETRICS in request.headers.get("Accept", "")
        # In a thread: the text of ten models takes 15 ms.
        async with one_at_a_time:
            body, kind = await asyncio.to_thread(_written, registry, asked_open)
        return web.Response(body=body, headers={"Content-Type": kind})

    app = web.Application()
    app[LARGEST] = 0
    app.router.add_get("/metrics", metrics)
    add_probes(app, health, front)
    return app

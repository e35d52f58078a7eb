"""/livez and /readyz for probes, /debug/batches for people, /metrics for Prometheus."""

from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.base.errors import NotAllowed
from serving.base.totals import Totals
from serving.models.catalogue import Catalogue, State
from serving.server.endpoints.health import Health
from serving.server.http.body import LARGEST


def add_probes(app: web.Application, health: Health) -> None:
    """Adds probes. /readyz is 503 while not ready, with a line for each process of the server where
    there are several, and for each model that does not serve."""

    catalogue = health.catalogue

    async def livez(_: web.Request) -> web.Response:
        # A stuck event loop does not answer at all, which a probe counts as a failure too.
        stuck = catalogue.stuck()
        return web.Response(text="\n".join(stuck or ["ok"]) + "\n", status=503 if stuck else 200)

    async def readyz(_: web.Request) -> web.Response:
        lines = [
            f"{line.name}{'/' + line.version if line.version else ''}: {line.state} {line.reason}"
            for line in catalogue.index()
            if line.state is not State.READY
        ]
        ready = health.ready()
        lines = [*health.processes(), *lines]
        text = "\n".join(["ready" if ready else "not ready", *lines]) + "\n"
        return web.Response(text=text, status=200 if ready else 503)

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)


def add_batches(app: web.Application, catalogue: Catalogue) -> None:
    """Adds the last batches of every model."""

    async def batches(_: web.Request) -> web.Response:
        recent = {
            f"{model.facts.name}/{model.facts.version}": [
                asdict(record) for record in await model.recent_batches()
            ]
            for model in catalogue.models()
        }
        return web.json_response(recent)

    app.router.add_get("/debug/batches", batches)


def metrics_app(totals: Totals, health: Health, *, certified: bool = False) -> web.Application:
    """An application that serves /metrics in Prometheus' text format, and the probes, which answer
    here also while callers have taken every connection of the other ports.

    certified: /metrics takes callers with a certificate only, probes take all.
    """

    async def metrics(request: web.Request) -> web.Response:
        transport = request.transport
        if certified and not (transport and transport.get_extra_info("certificate")):
            raise NotAllowed("/metrics: expected a client certificate (--tls-client-ca)")
        await totals.refresh()
        return web.Response(
            body=generate_latest(totals.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app[LARGEST] = 0
    app.router.add_get("/metrics", metrics)
    add_probes(app, health)
    return app

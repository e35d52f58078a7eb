"""/livez and /readyz for probes, /metrics for Prometheus."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from serving.registry import Registry, State


def health_app(registry: Registry, is_ready: Callable[[], bool]) -> web.Application:
    """Probes. /readyz is 503 while not ready, and has a line for each model that does not serve."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        lines = [
            f"{line.name}{'/' + line.version if line.version else ''}: {line.state} {line.reason}"
            for line in registry.index()
            if line.state is not State.READY
        ]
        ready = is_ready()
        text = "\n".join(["ready" if ready else "not ready", *lines]) + "\n"
        return web.Response(text=text, status=200 if ready else 503)

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return app


def metrics_app(registry: CollectorRegistry) -> web.Application:
    """/metrics in Prometheus' text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    return app

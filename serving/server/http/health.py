"""/livez and /readyz for probes, /metrics for Prometheus, /debug for people."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web
from aiohttp.web import ContentCoding
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from serving.base.counting.totals import Totals
from serving.base.errors import ModelNotFound, NotAllowed, no_model
from serving.batching.batch import BatchRecord
from serving.models.catalogue import Catalogue, State
from serving.models.facts import ModelFacts
from serving.server.access.door import Visit
from serving.server.endpoints.front import Front
from serving.server.endpoints.health import Health
from serving.server.http.body import LARGEST
from serving.server.http.compression import accepted_coding
from serving.server.http.port import caller_of

# The media type of OpenMetrics, which alone has exemplars.
_OPENMETRICS = "application/openmetrics-text"
# zlib's level. Lines of metrics differ in few characters: 1 makes a twentieth of them in 1 ms,
# higher levels take ten times that for half of it.
_LEVEL = 1


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
        why = "" if ready else health.why_not()
        lines = [*([why] if why else []), *health.processes(), *lines]
        text = "\n".join(["ready" if ready else "not ready", *lines]) + "\n"
        return web.Response(text=text, status=200 if ready else 503)

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)


def add_batches(app: web.Application, catalogue: Catalogue, front: Front) -> None:
    """Adds the last batches of every model on which the caller may debug, or of the one that
    `?model=` names."""

    async def batches(request: web.Request) -> web.Response:
        wanted, known = request.query.get("model"), catalogue.entries
        visit = front.ask("Batches", partial(caller_of, request), "debug", wanted)
        if wanted is not None and wanted not in known:
            raise ModelNotFound(
                no_model(wanted, known) if visit is None else visit.no_model(wanted, known)
            )
        found = [
            (model.facts, await model.recent_batches())
            for model in catalogue.models()
            if wanted in (None, model.facts.name)
            and (visit is None or "debug" in visit.rights.on(model.facts.name))
        ]
        # Some thousand records, of which each takes as long as a small call.
        listed = await asyncio.to_thread(_listed, found)
        return web.json_response(text=listed)

    app.router.add_get("/debug/batches", batches)


def _listed(found: Sequence[tuple[ModelFacts, Sequence[BatchRecord]]]) -> str:
    """The batches by model and version, with the time of day at which they started (`at`, seconds
    since 1970), the engine and the variant."""
    since = time.time() - time.monotonic()
    return json.dumps(
        {
            f"{facts.name}/{facts.version}": [
                record._asdict()
                | {
                    "at": since + record.started,
                    "engine": facts.engine_name,
                    "variant": facts.variant,
                }
                for record in records
            ]
            for facts, records in found
        }
    )


class MetricsText:
    """The metrics as text, in Prometheus' format or as OpenMetrics to whoever accepts it.

    It is made on a thread of its own: 50 models have 600 KB of it, which take 40 ms.
    """

    def __init__(self, totals: Totals, front: Front) -> None:
        self._totals = totals
        self._front = front
        self._thread = ThreadPoolExecutor(1, "metrics")

    async def answer(self, request: web.Request) -> web.Response:
        """The samples that the caller may see. Raises Unauthenticated, NotAllowed, ModelNotReady,
        OverLimit."""
        visit = self._front.ask("Metrics", partial(caller_of, request), "metrics")
        totals = self._totals
        await totals.refresh()
        registry = totals.registry if visit is None else Seen(totals.registry, visit)
        open_metrics = _OPENMETRICS in request.headers.get("Accept", "")
        coding = accepted_coding(request.headers.getall("Accept-Encoding", ()))
        body = await asyncio.get_running_loop().run_in_executor(
            self._thread, _text, registry, open_metrics, coding
        )
        kind = openmetrics.CONTENT_TYPE_LATEST if open_metrics else CONTENT_TYPE_LATEST
        headers = {"Content-Type": kind}
        if coding is not None:
            headers["Content-Encoding"] = coding.value
        return web.Response(body=body, headers=headers)


def _text(registry: CollectorRegistry, open_metrics: bool, coding: ContentCoding | None) -> bytes:
    if open_metrics:
        text: bytes = openmetrics.generate_latest(_Open(registry))  # type: ignore[no-untyped-call]
    else:
        text = generate_latest(registry)
    if coding is ContentCoding.gzip:
        return gzip.compress(text, _LEVEL)
    return text if coding is None else zlib.compress(text, _LEVEL)


def metrics_app(
    text: MetricsText, health: Health, front: Front, *, certified: bool = False
) -> web.Application:
    """An application that serves /metrics, and the probes, which answer here also while callers
    have taken every connection of the other ports.

    certified: /metrics takes callers with a certificate only, probes take all.
    """

    async def metrics(request: web.Request) -> web.Response:
        transport = request.transport
        if certified and not (transport and transport.get_extra_info("certificate")):
            raise NotAllowed("/metrics: expected a client certificate (--tls-client-ca)")
        return await text.answer(request)

    app = web.Application()
    app[LARGEST] = 0
    app.router.add_get("/metrics", metrics)
    add_probes(app, health, front)
    return app

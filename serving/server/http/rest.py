"""The Open Inference Protocol v2 over REST, on the same registry as gRPC."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from serving.base.errors import InvalidInput, NotOffered, ServingError
from serving.base.metrics import Duration, ModelCounters
from serving.base.tensor import TensorSpec
from serving.models.registry import State, VersionStatus
from serving.models.servable import Servable
from serving.repository.model_config import to_json
from serving.server.endpoints.front import Call
from serving.server.endpoints.oip import (
    EXTENSIONS,
    NO_CUDA_MEMORY,
    SERVER_NAME,
    Protocol,
    described,
)
from serving.server.endpoints.status import retry_after, status_of
from serving.server.http.codec import (
    JSON_LENGTH_HEADER,
    decode_call,
    decode_override,
    encode_answer,
    parse_object,
)

Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_rest_routes(app: web.Application, protocol: Protocol) -> None:
    """Adds every route below /v2."""
    rest = _Rest(protocol)
    model = "/v2/models/{model}"
    version = model + "/versions/{version}"
    get, post = app.router.add_get, app.router.add_post
    get("/v2", rest.guarded(rest.server_metadata))
    get("/v2/health/live", rest.guarded(rest.live))
    get("/v2/health/ready", rest.guarded(rest.ready))
    for prefix in (model, version):
        get(prefix, rest.guarded(rest.model_metadata))
        get(prefix + "/ready", rest.guarded(rest.model_ready))
        get(prefix + "/config", rest.guarded(rest.model_config))
        get(prefix + "/stats", rest.guarded(rest.model_statistics))
        post(prefix + "/infer", rest.guarded(rest.infer))
    get("/v2/models/stats", rest.guarded(rest.statistics))
    post("/v2/repository/index", rest.guarded(rest.repository_index))
    post("/v2/repository/models/{model}/load", rest.guarded(rest.load))
    post("/v2/repository/models/{model}/unload", rest.guarded(rest.unload))
    for kind, handlers in (
        ("system", (rest.memory_status, rest.memory_register, rest.memory_unregister)),
        ("cuda", (rest.cuda_status, rest.cuda_register, rest.cuda_unregister)),
    ):
        status, register, unregister = (rest.guarded(handler) for handler in handlers)
        base = f"/v2/{kind}sharedmemory"
        get(base + "/status", status)
        get(base + "/region/{region}/status", status)
        post(base + "/region/{region}/register", register)
        post(base + "/region/{region}/unregister", unregister)
        post(base + "/unregister", unregister)
    for path in ("/v2/trace/setting", model + "/trace/setting"):
        get(path, rest.guarded(rest.trace_settings))
        post(path, rest.guarded(rest.trace_settings))
    get("/v2/logging", rest.guarded(rest.log_settings))
    post("/v2/logging", rest.guarded(rest.log_settings))


class _Rest:
    """Converts, calls, converts."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._registry = protocol.front.registry

    def guarded(self, handler: Handler) -> Handler:
        """Turns errors into their status, with the reason as {"error": ...}."""

        async def run(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except ServingError as error:
                return _failure(error)
            except web.HTTPRequestEntityTooLarge as error:
                return web.json_response({"error": error.text}, status=error.status)

        return run

    # The server and its models.

    async def server_metadata(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"name": SERVER_NAME, "version": self._protocol.version, "extensions": EXTENSIONS}
        )

    async def live(self, _: web.Request) -> web.Response:
        return web.Response()

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._protocol.is_ready() else 400)

    async def model_ready(self, request: web.Request) -> web.Response:
        name, version = _model(request)
        ready = self._registry.ready_versions(name)
        found = version in ready if version else bool(ready)
        return web.Response(status=200 if found else 400)

    async def model_metadata(self, request: web.Request) -> web.Response:
        facts = self._registry.get(*_model(request)).facts
        return web.json_response(
            {
                "name": facts.name,
                "versions": self._registry.ready_versions(facts.name),
                "platform": facts.config.platform,
                "inputs": [_tensor(spec) for spec in facts.inputs],
                "outputs": [_tensor(spec) for spec in facts.outputs],
            }
        )

    async def model_config(self, request: web.Request) -> web.Response:
        facts = self._registry.get(*_model(request)).facts
        document = to_json(facts.config)
        for key, value in described(facts).items():
            document["parameters"][key] = {"string_value": value}
        return web.json_response(document)

    async def model_statistics(self, request: web.Request) -> web.Response:
        name, version = _model(request)
        self._registry.get(name, version)
        return self._statistics(name, version)

    async def statistics(self, _: web.Request) -> web.Response:
        return self._statistics("", "")

    def _statistics(self, name: str, version: str) -> web.Response:
        lines = [
            _counters(line.model)
            for line in self._registry.index()
            if line.model is not None and name in ("", line.name) and version in ("", line.version)
        ]
        return web.json_response({"model_stats": lines})

    # Inference.

    async def infer(self, request: web.Request) -> web.Response:
        name, version = _model(request)
        body = await request.read()
        length = request.headers.get(JSON_LENGTH_HEADER)
        if length is not None and not length.isdecimal():
            raise InvalidInput(f"{JSON_LENGTH_HEADER}: expected a number, got {length!r}")

        async def run(body: bytes, call: Call) -> tuple[bytes, int | None]:
            decoded, binary = decode_call(
                body,
                int(length) if length is not None else None,
                name,
                version,
                self._protocol.memory,
            )
            call.id = decoded.id
            return encode_answer(await self._protocol.infer(decoded, call), binary)

        content, json_length = await self._protocol.front.run("RestInfer", math.inf, run, body)
        response = web.Response(
            body=content,
            content_type="application/json" if json_length is None else "application/octet-stream",
        )
        if json_length is not None:
            response.headers[JSON_LENGTH_HEADER] = str(json_length)
        accepted = request.headers.get("Accept-Encoding", "")
        if "gzip" in accepted or "deflate" in accepted:
            response.enable_compression()
        return response

    # Administration.

    async def repository_index(self, request: web.Request) -> web.Response:
        ready_only = parse_object(await request.read()).get("ready", False)
        return web.json_response(
            [
                _index_line(line)
                for line in await self._registry.repository_index()
                if line.state is State.READY or not ready_only
            ]
        )

    async def load(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        self._protocol.admin.require_explicit()
        override = decode_override(parse_object(await request.read()))
        await self._registry.load(request.match_info["model"], override)
        return web.Response()

    async def unload(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        self._protocol.admin.require_explicit()
        await self._registry.unload(request.match_info["model"])
        return web.Response()

    async def memory_status(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        regions = self._protocol.memory.regions(request.match_info.get("region", ""))
        return web.json_response(
            [
                {"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.byte_size}
                for r in regions
            ]
        )

    async def memory_register(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        document = parse_object(await request.read())
        key, offset, size = (document.get(k) for k in ("key", "offset", "byte_size"))
        if not isinstance(key, str) or type(offset or 0) is not int or type(size) is not int:
            raise InvalidInput(
                f"expected key as text, offset and byte_size as integers, got {document}"
            )
        self._protocol.memory.register(request.match_info["region"], key, offset or 0, size)
        return web.Response()

    async def memory_unregister(self, request: web.Request) -> web.Response:
        self._require_admin(request)
        self._protocol.memory.unregister(request.match_info.get("region", ""))
        return web.Response()

    async def cuda_status(self, _: web.Request) -> web.Response:
        return web.json_response([])

    async def cuda_register(self, _: web.Request) -> web.Response:
        raise NotOffered(NO_CUDA_MEMORY)

    async def cuda_unregister(self, request: web.Request) -> web.Response:
        if "region" in request.match_info:
            raise NotOffered(NO_CUDA_MEMORY)
        return web.Response()

    async def trace_settings(self, request: web.Request) -> web.Response:
        model = request.match_info.get("model", "")
        if model:
            self._registry.get(model)
        if request.method == "POST":
            self._require_admin(request)
            changes = parse_object(await request.read())
            self._protocol.tracer.update({k: _texts(v) for k, v in changes.items()}, model)
        settings = self._protocol.tracer.read(model)
        return web.json_response(
            {k: v if k == "trace_level" else v[0] for k, v in settings.items()}
        )

    async def log_settings(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self._require_admin(request)
            self._protocol.logs.update(parse_object(await request.read()))
        return web.json_response(self._protocol.logs.read())

    def _require_admin(self, request: web.Request) -> None:
        self._protocol.admin.require_local(request.remote)


def _failure(error: ServingError) -> web.Response:
    response = web.json_response({"error": str(error)}, status=status_of(error).http)
    seconds = retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response


def _model(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info.get("version", "")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _index_line(line: VersionStatus) -> dict[str, str]:
    found = {"version": line.version, "state": line.state.value, "reason": line.reason}
    return {"name": line.name} | {key: value for key, value in found.items() if value}


def _counters(model: Servable) -> dict[str, Any]:
    counters: ModelCounters = model.counters
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    inference = {name: _duration(getattr(counters, name)) for name in names}
    batches = [
        {
            "batch_size": size,
            **{name: _duration(getattr(batch, name)) for name in names[3:]},
        }
        for size, batch in sorted(counters.batches.items())
    ]
    return {
        "name": model.facts.name,
        "version": model.facts.version,
        "last_inference": counters.last_inference_ms,
        "inference_count": counters.inference_count,
        "execution_count": counters.execution_count,
        "inference_stats": {
            **inference,
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}


def _texts(value: Any) -> list[str]:
    """A trace setting as REST clients send it: text, a list of texts, or null to clear it."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]

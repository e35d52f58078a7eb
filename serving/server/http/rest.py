"""The Open Inference Protocol v2 over REST."""

import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any

from aiohttp import web

from serving.models.catalogue import VersionStatus
from serving.repository.config_fields import plain
from serving.server.access_config import AdminGroup
from serving.server.endpoints.admin_calls import AdminCalls, no_cuda_memory
from serving.server.endpoints.call import Call, InferenceCall
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import CONTROL_BYTES, parsed, parsed_in_turns
from serving.server.endpoints.health import Health
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.raw_tensors import Buffer
from serving.server.http.body import read_body
from serving.server.http.codec import (
    JSON_LENGTH_HEADER,
    LARGER_THAN_JSON,
    decode_request,
    encode_answer,
)
from serving.server.http.compression import accepted_coding
from serving.server.http.control import (
    decode_override,
    decode_registration,
    decode_trace_settings,
)
from serving.server.http.deadline import Deadlines, timeout_of
from serving.server.http.json_text import parse_object
from serving.server.http.origin import json_only
from serving.server.http.pieces import body_of
from serving.server.http.port import caller_of

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
# Callers send a few headers again and again: looking one up takes a tenth of reading it.
_accepted_coding = functools.lru_cache(64)(accepted_coding)


class RestService:
    """Converts, calls, converts. Its errors are answered by HttpPort.

    max_json: bytes that the JSON of a call that infers may have.
    timeout_seconds: how long such a call may take once its body is there; 0 for ever.
    """

    def __init__(
        self,
        front: Front,
        inference: OpenInference,
        inspection: Inspection,
        admin: AdminCalls,
        health: Health,
        *,
        max_json: int,
        timeout_seconds: float = 0.0,
    ) -> None:
        self._front = front
        self._inference = inference
        self._inspection = inspection
        self._admin = admin
        self._health = health
        self._max_json = max_json
        self._timeout = timeout_seconds or math.inf
        self._deadlines = Deadlines()

    def add_routes(self, app: web.Application) -> None:
        """Adds every route below /v2."""
        get, post = app.router.add_get, app.router.add_post

        def change(path: str, handler: _Handler) -> None:
            post(path, json_only(handler))

        get("/v2", self.server_metadata)
        get("/v2/health/live", self.live)
        get("/v2/health/ready", self.ready)
        get("/v2/models/stats", self.statistics)
        for model in (_MODEL, _VERSION):
            get(model, self.model_metadata)
            get(model + "/ready", self.model_ready)
            get(model + "/config", self.model_config)
            get(model + "/stats", self.statistics)
            post(model + "/infer", self.infer)
        post("/v2/repository/index", self.repository_index)
        get("/v2/repository/rights", self.repository_rights)
        change("/v2/repository/models/{model}/load", self.load)
        change("/v2/repository/models/{model}/unload", self.unload)
        for kind, status, register, unregister in (
            ("system", self.memory_status, self.register, self.unregister),
            ("cuda", self.cuda_status, self.cuda_register, self.cuda_unregister),
        ):
            base = f"/v2/{kind}sharedmemory"
            get(base + "/status", status)
            get(base + "/region/{region}/status", status)
            change(base + "/region/{region}/register", register)
            change(base + "/region/{region}/unregister", unregister)
            change(base + "/unregister", unregister)
        for settings in ("/v2/trace/setting", _MODEL + "/trace/setting"):
            get(settings, self.trace_settings)
            change(settings, self.trace_settings)
        get("/v2/logging", self.log_settings)
        change("/v2/logging", self.log_settings)

    def _control(self, method: str, request: web.Request) -> Call:
        return self._front.control(method, lambda: caller_of(request))

    @contextlib.contextmanager
    def _admin_call(self, method: str, request: web.Request, group: AdminGroup) -> Iterator[Call]:
        """A call that its caller may make, before its body is read."""
        with self._control(method, request) as call:
            self._admin.permit(call, group)
            yield call

    # Inference.

    async def infer(self, request: web.Request) -> web.Response:
        """Tensors in, tensors out, as JSON or behind it in binary."""
        with self._front.call("RestInfer", lambda: caller_of(request)) as call:
            seconds = min(self._timeout, parsed(timeout_of, request.headers))
            body = await call.receive(self._tensors(call, request))
            work = self._answered(call, request, body)
            parts, json_length = await self._deadlines.within(call, seconds, work)
        response = web.Response(
            body=body_of(parts),
            content_type="application/json" if json_length is None else "application/octet-stream",
        )
        if json_length is not None:
            response.headers[JSON_LENGTH_HEADER] = str(json_length)
        coding = _accepted_coding(tuple(request.headers.getall("Accept-Encoding", ())))
        if coding is not None:
            response.enable_compression(coding)
        return response

    async def _answered(
        self, call: InferenceCall, request: web.Request, body: bytes
    ) -> tuple[list[Buffer], int | None]:
        """The parts of the answer's body, and the length of its JSON where tensors follow it."""
        model = call.resolve(*_model(request))
        decoding = decode_request(
            body,
            request.headers.get(JSON_LENGTH_HEADER),
            call,
            model.facts,
            self._inference,
            self._max_json,
        )
        tensors = await parsed_in_turns(decoding)
        answer = await self._inference.infer(call, model, tensors)
        return await encode_answer(answer, tensors.as_text, self._inference)

    async def _tensors(self, call: Call, request: web.Request) -> bytes:
        """The body of a call that infers. One that is all JSON is not taken beyond the limit of
        that. Raises RequestTooLarge."""
        if JSON_LENGTH_HEADER in request.headers:
            return await read_body(call, request)
        return await read_body(call, request, self._max_json, hint=f" ({LARGER_THAN_JSON})")

    # Health.

    async def live(self, _: web.Request) -> web.Response:
        """The event loop answers, so it lives."""
        return web.Response()

    async def ready(self, _: web.Request) -> web.Response:
        """200 where calls should be sent here, else 400."""
        return web.Response(status=200 if self._health.ready() else 400)

    async def model_ready(self, request: web.Request) -> web.Response:
        """200 where a model, or a version of it, serves, else 400."""
        name, version = _model(request)
        seen = self._front.seen_by(lambda: caller_of(request))(name)
        ready = seen and self._health.model_ready(name, version)
        return web.Response(status=200 if ready else 400)

    # The server and its models.

    async def server_metadata(self, request: web.Request) -> web.Response:
        """Name, version and the protocol extensions on offer."""
        with self._control("ServerMetadata", request) as call:
            return web.json_response(asdict(self._inspection.server(call)))

    async def model_metadata(self, request: web.Request) -> web.Response:
        """Inputs and outputs with their shapes."""
        with self._control("ModelMetadata", request) as call:
            return web.json_response(asdict(self._inspection.model(call, *_model(request))))

    async def model_config(self, request: web.Request) -> web.Response:
        """config.pbtxt as it was read; `parameters` say also what serves and how good it is."""
        with self._control("ModelConfig", request) as call:
            return web.json_response(plain(self._inspection.config(call, *_model(request))))

    async def statistics(self, request: web.Request) -> web.Response:
        """Counters and times of one model, or of all."""
        with self._control("ModelStatistics", request) as call:
            found = await self._inspection.statistics(call, *_model(request))
            return web.json_response({"model_stats": [asdict(line) for line in found]})

    async def repository_index(self, request: web.Request) -> web.Response:
        """Every model with its state and, where it does not serve, the reason."""
        with self._control("RepositoryIndex", request) as call:
            asked = await _document(call, request)
            found = await self._inspection.index(call, ready_only=bool(asked.get("ready", False)))
            return web.json_response([_index_line(line) for line in found])

    # Administration.

    async def repository_rights(self, request: web.Request) -> web.Response:
        """The models that the caller may load and unload, for pages that offer it."""
        with self._control("RepositoryRights", request) as call:
            found = await self._inspection.index(call, ready_only=False)
            names = sorted({line.name for line in found if self._admin.may_load(call, line.name)})
            return web.json_response({"load": names})

    async def load(self, request: web.Request) -> web.Response:
        """Loads or reloads a model from the repository."""
        with self._admin_call("RepositoryModelLoad", request, "repository") as call:
            override = parsed(decode_override, await call.receive(read_body(call, request)))
            await self._admin.load(call, request.match_info["model"], override)
            return web.Response()

    async def unload(self, request: web.Request) -> web.Response:
        """Takes a model out of service once its accepted calls are answered."""
        with self._admin_call("RepositoryModelUnload", request, "repository") as call:
            await _document(call, request)
            await self._admin.unload(call, request.match_info["model"])
            return web.Response()

    async def memory_status(self, request: web.Request) -> web.Response:
        """The registered regions, or one of them."""
        with self._control("SystemSharedMemoryStatus", request) as call:
            regions = self._admin.regions(call, _region(request))
            return web.json_response([asdict(region) for region in regions])

    async def register(self, request: web.Request) -> web.Response:
        """Registers a region that the caller has made on this machine."""
        with self._admin_call("SystemSharedMemoryRegister", request, "memory") as call:
            asked = parsed(decode_registration, await _control_body(call, request))
            self._admin.register(call, _region(request), asked.key, asked.offset, asked.byte_size)
            return web.Response()

    async def unregister(self, request: web.Request) -> web.Response:
        """Forgets a region, or all."""
        with self._admin_call("SystemSharedMemoryUnregister", request, "memory") as call:
            await _document(call, request)
            self._admin.unregister(call, _region(request))
            return web.Response()

    async def cuda_status(self, request: web.Request) -> web.Response:
        """None can be registered, so none is."""
        with self._control("CudaSharedMemoryStatus", request):
            return web.json_response([])

    async def cuda_register(self, request: web.Request) -> web.Response:
        """Not offered."""
        with self._control("CudaSharedMemoryRegister", request) as call:
            await _document(call, request)
            raise no_cuda_memory()

    async def cuda_unregister(self, request: web.Request) -> web.Response:
        """There is nothing to forget, which is no error when all are meant."""
        with self._control("CudaSharedMemoryUnregister", request) as call:
            await _document(call, request)
            if _region(request):
                raise no_cuda_memory()
            return web.Response()

    async def trace_settings(self, request: web.Request) -> web.Response:
        """Changes the settings that a POST names, and reads all."""
        with self._control("TraceSetting", request) as call:
            changes = parsed(decode_trace_settings, await self._changes(call, request))
            found = await self._admin.trace_settings(call, _model(request)[0], changes)
            return web.json_response(
                {name: v if name == "trace_level" else v[0] for name, v in found.items()}
            )

    async def log_settings(self, request: web.Request) -> web.Response:
        """Changes the settings that a POST names, and reads all."""
        with self._control("LogSettings", request) as call:
            changes = parsed(parse_object, await self._changes(call, request))
            return web.json_response(await self._admin.log_settings(call, changes))

    async def _changes(self, call: Call, request: web.Request) -> bytes:
        """The body of a POST; a GET reads settings alone, whatever it brings."""
        if request.method != "POST":
            return b""
        self._admin.permit(call, "settings")
        return await _control_body(call, request)


_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _model(request: web.Request) -> tuple[str, str]:
    """Model and version of the path, empty where it names none."""
    return request.match_info.get("model", ""), request.match_info.get("version", "")


def _region(request: web.Request) -> str:
    return request.match_info.get("region", "")


async def _document(call: Call, request: web.Request) -> dict[str, Any]:
    """The JSON object that a POST brings, also where nothing is asked of it: what cannot be parsed
    is bad input on every route. Raises InvalidInput."""
    return parsed(parse_object, await _control_body(call, request))


async def _control_body(call: Call, request: web.Request) -> bytes:
    return await call.receive(read_body(call, request, CONTROL_BYTES))


def _index_line(line: VersionStatus) -> dict[str, str]:
    found = {"version": line.version, "state": line.state.value, "reason": line.reason}
    return {"name": line.name} | {key: value for key, value in found.items() if value}

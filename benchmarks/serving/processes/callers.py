"""Callers, and whoever loads, of a server whose processes are killed."""

import asyncio
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import numpy as np
from google.protobuf import json_format, text_format

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc as oip_grpc
from protos.gen import model_config_pb2
from tests.support.identity import publish_identity
from tests.support.process import ServerProcess
from tests.support.published import SIDE, config, graph, publish

CALLERS, CONNECTIONS = 24, 6
# Shares of the kinds of calls.
KINDS = {
    "unary": 10, "stream": 3, "rest": 3, "large": 1, "cancelled": 2, "hurried": 2,
}  # fmt: skip
# Rows of a call, and messages of a stream, at most.
ROWS, MESSAGES = 8, 6
LARGE_BYTES = 1 << 20
# Seconds of a caller between two calls, on average: fewer leave loads fewer of two cores.
PAUSE = 0.06
# Seconds after which a call counts as one without a status. Those of a call in a hurry, at most.
PATIENCE, HURRY = 20.0, 0.02
# Seconds that a load may take: it gets the time that calls leave.
LOAD_PATIENCE = 120.0
# Errors of another status whose text names the death of a process: those of the server, and that of
# grpc.aio where the connection ends under a message that it writes.
_LOST = "Internal error from Core"
_NAMED = ("died twice", "loader process failed", _LOST)
# Statuses that the death of a process, or the caller himself, explains. A server that has just been
# started knows no model before the first load.
_DEATHS = {"OK", "UNAVAILABLE", "died twice", "not loaded yet"}
_ENDED = _DEATHS | {"CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
EXPECTED = defaultdict(
    lambda: _DEATHS,
    cancelled=_ENDED,
    hurried=_ENDED,
    stream=_DEATHS | {_LOST},
    load={"OK", "UNAVAILABLE", "loader process failed"},
    override={"OK", "UNAVAILABLE", "loader process failed"},
)
_REST = {404: "NOT_FOUND", 503: "UNAVAILABLE"}
# Of errors in a stream, which have a text and no code.
_TEXTS = {
    "died twice": "died twice",
    "no model": "NOT_FOUND",
    "engine process": "UNAVAILABLE",
    "is not ready": "UNAVAILABLE",
    "is being unloaded": "UNAVAILABLE",
    "is not served any more": "UNAVAILABLE",
}
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Wrong(Exception):
    """An answer that is not right. The text is its status."""


class Refused(Exception):
    """A status that came otherwise than as gRPC's. The text is the status."""


@dataclass
class Ended:
    """What came of the calls.

    begun: their number.
    statuses: by kind.
    longest: seconds of the longest one.
    """

    begun: int = 0
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    longest: float = 0.0

    def faults(self) -> list[str]:
        """Statuses that nothing explains, and calls without any."""
        found = [
            f"{kind}: {count} calls ended with {status}"
            for kind, counts in self.statuses.items()
            for status, count in counts.items()
            if status not in EXPECTED[kind]
        ]
        missing = self.begun - sum(counts.total() for counts in self.statuses.values())
        return found + ([f"{missing} calls have not ended"] if missing else [])

    async def note(self, kind: str, call: Awaitable[None], patience: float = PATIENCE) -> str:
        """Awaits a call; its status, which is noted."""
        self.begun += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await call
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = _of_error(error.code(), error.details() or "")
        except (Wrong, Refused) as error:
            status = str(error)
        except TimeoutError:
            status = "silence"
        except aiohttp.ClientError:
            status = "UNAVAILABLE"  # the connection has ended, or there is none
        self.statuses[kind][status] += 1
        self.longest = max(self.longest, time.monotonic() - began)
        return status


def gain(version: int) -> float:
    """That of a version of `colours`, from which its answers follow."""
    return 9.0 + version


def publish_models(repository: Path) -> None:
    """The models that are called."""
    publish(repository, "colours", gain=gain(1))
    publish_identity(repository, "identity", ["UINT8"])


class Callers:
    """Calls of each kind, as methods that return once the answer was right.

    up: a server has all models that are called; to be cleared where it dies.
    newest: the version of `colours` whose load was answered last.
    over: nobody begins another call.
    """

    def __init__(self, server: ServerProcess, ended: Ended, seed: int) -> None:
        self.up = asyncio.Event()
        self.newest = 1
        self.over = False
        self._ended = ended
        self._random = random.Random(seed)
        self._rng = np.random.default_rng(seed)
        self._channels = [
            grpc.aio.insecure_channel(server.url, options=_CHANNEL) for _ in range(CONNECTIONS)
        ]
        self._stubs = [oip_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._url = f"{server.http}/v2/models/colours/infer"
        self._http = aiohttp.ClientSession()

    async def run(self) -> None:
        """Calls until it is over; returns when each call has ended."""
        await asyncio.gather(*(self._caller(number) for number in range(CALLERS)))
        for channel in self._channels:
            await channel.close()
        await self._http.close()

    async def _caller(self, number: int) -> None:
        stub = self._stubs[number % CONNECTIONS]
        calls: dict[str, Callable[[oip_grpc.GRPCInferenceServiceStub], Awaitable[None]]] = {
            kind: getattr(self, f"_{kind}") for kind in KINDS
        }
        while not self.over:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE))
            [kind] = self._random.choices(list(KINDS), list(KINDS.values()))
            await self._ended.note(kind, self._known(calls[kind](stub)))

    async def _known(self, call: Awaitable[None]) -> None:
        """Awaits a call; says so where its model is not known yet."""
        was_up = self.up.is_set()
        try:
            await call
        except (grpc.aio.AioRpcError, Refused) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
            if code == "NOT_FOUND" and not (was_up and self.up.is_set()):
                raise Refused("not loaded yet") from error
            raise

    def _colours(self, most: int = ROWS) -> np.ndarray:
        return self._rng.integers(70, 256, (self._random.randint(1, most), 3)).astype(np.uint8)

    def _check(
        self, answer: oip.ModelInferResponse, request: oip.ModelInferRequest, newest: int
    ) -> None:
        if answer.id != request.id:
            raise Wrong("the answer of another call")
        logits = np.frombuffer(answer.raw_output_contents[0], np.float32)
        self._check_logits(logits, request.raw_input_contents[0], answer.model_version, newest)

    def _check_logits(self, logits: np.ndarray, pixels: bytes, version: str, newest: int) -> None:
        images = np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE, 3)
        right = images[:, 0, 0].astype(np.float32) * gain(int(version)) / 255
        if logits.size != right.size or not np.allclose(logits, right.reshape(-1), rtol=1e-4):
            raise Wrong("a wrong answer")
        if int(version) < newest:
            raise Wrong("a stale version")

    async def _unary(self, stub: oip_grpc.GRPCInferenceServiceStub, seconds: float = 60) -> None:
        request, newest = _request(self._colours()), self.newest
        self._check(await stub.ModelInfer(request, timeout=seconds), request, newest)

    async def _hurried(self, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
        await self._unary(stub, self._random.uniform(0.001, HURRY))

    async def _cancelled(self, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
        call = stub.ModelInfer(_request(self._colours()))
        await asyncio.sleep(self._random.uniform(0, 0.005))
        call.cancel()
        if (code := await call.code()) is not grpc.StatusCode.OK:
            raise Refused(_of_error(code, await call.details()))

    async def _stream(self, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
        stream, refusals = stub.ModelStreamInfer(), []
        for number in range(self._random.randint(1, MESSAGES)):
            request, newest = _request(self._colours(), str(number)), self.newest
            await stream.write(request)
            answer = await stream.read()
            if answer is grpc.aio.EOF:
                raise Wrong("a stream that ended")
            if answer.error_message:  # which has no code; the stream goes on
                refusals.append(answer.error_message)
            else:
                self._check(answer.infer_response, request, newest)
        await stream.done_writing()
        if (code := await stream.code()) is not grpc.StatusCode.OK:
            raise Refused(_of_error(code, await stream.details()))
        if refusals:
            raise Refused(_of_message(refusals[0]))

    async def _large(self, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
        data = self._random.randbytes(LARGE_BYTES)
        request = oip.ModelInferRequest(model_name="identity")
        request.inputs.add(name="in_UINT8", datatype="UINT8", shape=[len(data)])
        request.raw_input_contents.append(data)
        answer = await stub.ModelInfer(request)
        if answer.raw_output_contents[0] != data:
            raise Wrong("a wrong answer")

    async def _rest(self, _: oip_grpc.GRPCInferenceServiceStub) -> None:
        request, newest = _request(self._colours(2)), self.newest
        pixels = request.raw_input_contents[0]
        given = request.inputs[0]
        tensor = {"name": given.name, "datatype": given.datatype, "shape": list(given.shape)}
        document = {"inputs": [{**tensor, "data": list(pixels)}]}
        async with self._http.post(self._url, json=document) as answer:
            found = await answer.json()
        if answer.status != 200:
            raise Refused(_REST.get(answer.status, f"{answer.status} {found}"))
        logits = np.array(found["outputs"][0]["data"], np.float32)
        self._check_logits(logits, pixels, found["model_version"], newest)


def _request(colours: np.ndarray, id: str = "") -> oip.ModelInferRequest:  # noqa: A002 - its name
    images = np.broadcast_to(colours[:, None, None], (len(colours), SIDE, SIDE, 3))
    request = oip.ModelInferRequest(model_name="colours", id=id)
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request


def _of_error(code: grpc.StatusCode, details: str) -> str:
    """The status of an error of gRPC; with its text where nothing explains it."""
    if code.name in _ENDED | {"NOT_FOUND"}:
        return code.name
    return next((name for name in _NAMED if name in details), f"{code.name} ({details[:200]})")


def _of_message(text: str) -> str:
    """The status that a refusal's text stands for; the text where that is none of those here."""
    return next((status for words, status in _TEXTS.items() if words in text), text)


class Loads:
    """Loads one version of `colours` after the other, and models that the call brings."""

    def __init__(self, server: ServerProcess, callers: Callers, ended: Ended, models: Path) -> None:
        self._server, self._callers, self._ended, self._models = server, callers, ended, models
        self._staging = models.parent / "staging"
        self._version = 1

    async def run(self) -> None:
        """Loads until the callers are over."""
        async with grpc.aio.insecure_channel(self._server.admin, options=_CHANNEL) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while not self._callers.over:
                is_up = self._callers.up.is_set()
                await asyncio.to_thread(self._publish)
                loads = [self._load_next(stub)] + ([] if is_up else [_load(stub, "identity")])
                statuses = [await self._ended.note("load", load, LOAD_PATIENCE) for load in loads]
                if not is_up and set(statuses) == {"OK"}:
                    self._callers.up.set()
                await self._ended.note("override", _override(stub), LOAD_PATIENCE)
                await asyncio.sleep(0.1)  # a server that is gone refuses at once

    def _publish(self) -> None:
        """Adds a version, whole at once."""
        self._version += 1
        folder = publish(self._staging, version=self._version, gain=gain(self._version))
        folder.rename(self._models / "colours" / folder.name)

    async def _load_next(self, stub: oip_grpc.GRPCInferenceServiceStub) -> None:
        version = self._version
        await _load(stub, "colours")
        self._callers.newest = version
        for folder in (self._models / "colours").iterdir():
            if folder.is_dir() and int(folder.name) < version:
                await asyncio.to_thread(shutil.rmtree, folder)


async def _load(stub: oip_grpc.GRPCInferenceServiceStub, model: str) -> None:
    await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=model))


async def _override(stub: oip_grpc.GRPCInferenceServiceStub) -> None:
    proto = text_format.Parse(config("embedding"), model_config_pb2.ModelConfig())
    request = oip.RepositoryModelLoadRequest(model_name="given")
    request.parameters["config"].string_param = json_format.MessageToJson(proto)
    request.parameters["file:1/model.onnx"].bytes_param = graph("embedding").SerializeToString()
    await stub.RepositoryModelLoad(request)

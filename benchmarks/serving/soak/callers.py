"""Calls of honest callers, each of which knows its right answer."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.serving.hostile.http2 import begun, opened_call
from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc as oip_grpc
from protos.gen import vision_pb2 as vision
from protos.gen import vision_pb2_grpc as vision_grpc
from tests.support.identity import publish_identity
from tests.support.pictures import encoded
from tests.support.process import ServerProcess
from tests.support.published import COLOURS, SIDE, publish

# Calls a second of each kind; a stream is one call with its messages.
RATES = {
    "classify": 14.0, "infer": 14.0, "embed": 8.0, "stream": 2.0, "rest": 6.0, "large": 0.5,
    "cancelled": 3.0, "hurried": 3.0, "unknown": 1.0, "health": 1.0, "anew": 1.0, "gone": 0.5,
    "reload": 1 / 30,
}  # fmt: skip
MODELS = ("colours", "points", "identity")
MESSAGES, REST_CONNECTIONS = 8, 2
LARGE_BYTES = 3 << 20
# Seconds that a call may take, and those of one in a hurry, at most.
PATIENCE, HURRY = 20.0, 0.01
# Statuses of calls that have little time, or are given up: each is the truth about some of them.
_ENDED = {"OK", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"}
EXPECTED: Mapping[str, set[str]] = defaultdict(
    lambda: {"OK"},
    cancelled=_ENDED, hurried=_ENDED, unknown={"NOT_FOUND"}, gone={"gone"},
)  # fmt: skip


def publish_models(repository: Path) -> None:
    """The models that they call."""
    repository.mkdir()
    publish(repository, "colours", "classification")
    publish(repository, "points", "embedding")
    publish_identity(repository, "identity", ["UINT8"])


class Callers:
    """Calls of each kind, as methods that return the status of one. Raises AssertionError for a
    wrong answer."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._pictures = np.full((len(COLOURS), SIDE, SIDE, 3), 16, np.uint8)
        for number in range(len(COLOURS)):
            self._pictures[number, ..., number] = 200
        self._files = [encoded(picture, "PNG") for picture in self._pictures]
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._channel = grpc.aio.insecure_channel(server.url, options=unlimited)
        self._oip = oip_grpc.GRPCInferenceServiceStub(self._channel)
        self._vision = vision_grpc.VisionServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._admin = grpc.aio.insecure_channel(server.admin)
        self._loads = oip_grpc.GRPCInferenceServiceStub(self._admin)
        # Once it has opened more, it keeps all of them in use.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=REST_CONNECTIONS))

    async def close(self) -> None:
        """Closes the connections."""
        await self._channel.close()
        await self._admin.close()
        await self._http.close()

    def _tensor(self, model: str, number: int) -> oip.ModelInferRequest:
        request = oip.ModelInferRequest(model_name=model, id=str(number))
        request.inputs.add(name="image", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
        request.raw_input_contents.append(self._pictures[number].tobytes())
        return request

    def _number(self) -> int:
        return self._random.randrange(len(COLOURS))

    async def classify(self) -> str:
        number = self._number()
        images = [vision.Image(encoded=self._files[number])]
        request = vision.ClassifyRequest(model="colours", images=images, top_k=1)
        answer = await self._vision.Classify(request, timeout=PATIENCE)
        assert answer.results[0].labels[0].index == number
        return "OK"

    async def infer(self, model: str = "colours", timeout: float = PATIENCE) -> str:
        number = self._number()
        answer = await self._oip.ModelInfer(self._tensor(model, number), timeout=timeout)
        _check(answer, number)
        return "OK"

    async def embed(self) -> str:
        return await self.infer("points")

    async def hurried(self) -> str:
        return await self.infer(timeout=self._random.uniform(0.0005, HURRY))

    async def unknown(self) -> str:
        return await self.infer("nothing")

    async def stream(self) -> str:
        numbers = [self._number() for _ in range(MESSAGES)]

        async def messages() -> Any:
            for number in numbers:
                yield self._tensor("colours", number)
                await asyncio.sleep(self._random.uniform(0, 0.2))

        answers = self._oip.ModelStreamInfer(messages(), timeout=PATIENCE)
        found = [answer async for answer in answers]
        assert not any(answer.error_message for answer in found), found
        for answer, number in zip(found, numbers, strict=True):
            _check(answer.infer_response, number)
        return "OK"

    async def large(self) -> str:
        data = self._random.randbytes(LARGE_BYTES)
        request = oip.ModelInferRequest(model_name="identity")
        request.inputs.add(name="in_UINT8", datatype="UINT8", shape=[len(data)])
        request.raw_input_contents.append(data)
        answer = await self._oip.ModelInfer(request, timeout=PATIENCE)
        assert answer.raw_output_contents[0] == data
        return "OK"

    async def rest(self) -> str:
        number = self._number()
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
        document = {"inputs": [{**tensor, "data": self._pictures[number].reshape(-1).tolist()}]}
        url = f"{self._server.http}/v2/models/colours/infer"
        async with self._http.post(url, json=document, timeout=_patience()) as answer:
            found = await answer.json()
        if answer.status == 200:
            assert int(np.argmax(found["outputs"][0]["data"])) == number
        return "OK" if answer.status == 200 else str(answer.status)

    async def cancelled(self) -> str:
        call = self._oip.ModelInfer(self._tensor("colours", 0), timeout=PATIENCE)
        await asyncio.sleep(self._random.uniform(0, 0.003))
        call.cancel()
        return str((await call.code()).name)

    async def health(self) -> str:
        answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        return "OK"

    async def anew(self) -> str:
        number = self._number()
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._server.url, options=own) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            _check(await stub.ModelInfer(self._tensor("colours", number), timeout=PATIENCE), number)
        return "OK"

    async def gone(self) -> str:
        host, _, port = self._server.url.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(begun() + opened_call(1, b"\0\0\0\x10\0half"))
        await writer.drain()
        await asyncio.sleep(self._random.uniform(0, 0.1))
        writer.transport.abort()
        return "gone"

    async def reload(self) -> str:
        await self.load("points")
        return "OK"

    async def load(self, model: str) -> None:
        """Loads a model, anew where it serves."""
        request = oip.RepositoryModelLoadRequest(model_name=model)
        await self._loads.RepositoryModelLoad(request, timeout=PATIENCE)


def _check(answer: oip.ModelInferResponse, number: int) -> None:
    assert answer.id == str(number)
    assert int(np.frombuffer(answer.raw_output_contents[0], np.float32).argmax()) == number


def _patience() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=PATIENCE)

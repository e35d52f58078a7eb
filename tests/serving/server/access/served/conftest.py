"""A server that tells callers apart, its files of who may do what, and calls over every wire."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.server.access.keys import ApiKey, digest_of, new_key
from serving.server.endpoints.admin import Admin
from tests.support.in_process import SIDE, InProcess, in_process
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, issuing

OIP = "/inference.GRPCInferenceService/"
VISION = "/convserve.vision.v1.VisionService/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/Check"
KEYS = {client: new_key() for client in ("clinic", "lab", "ops", "nobody")}

POLICY = """
groups:
  clinics:
    members: [key:clinic, jwt:alice]
    rights:
      - {models: [colours], actions: [infer, metadata, statistics]}
      - {models: [points], actions: [metadata]}
      - {models: [none], actions: [infer, load]}
  labs:
    members: [key:lab]
    rights:
      - {models: [plain, colours], actions: [infer]}
    limits: {LIMITS}
  operators:
    members: [key:ops, role:ops]
    rights:
      - {models: ["*"], actions: [metadata, statistics, load, settings, memory, metrics, debug]}
"""

Scenario = Callable[[InProcess], Awaitable[None]]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as made:
        yield made


class Place:
    """The files of a server, and its settings."""

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self.keys, self.policy = folder / "keys", folder / "policy.yaml"
        self.write_keys(*KEYS)
        self.write_policy()
        self.jwt = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": issuer.url}
        self.known = {"api_keys": self.keys, **self.jwt}
        self.ruled = {**self.known, "policy": self.policy}

    def write_keys(self, *clients: str) -> None:
        self.keys.write_text(
            "".join(ApiKey(client, digest_of(KEYS[client])).line() + "\n" for client in clients)
        )

    def write_policy(self, limits: str = "{}", more: str = "") -> None:
        self.policy.write_text(POLICY.replace("{LIMITS}", limits) + more)


@pytest.fixture
def place(tmp_path: Path, issuer: Issuer) -> Place:
    return Place(tmp_path, issuer)


def serve(folder: Path, scenario: Scenario, access: dict[str, Any], **settings: Any) -> None:
    if "policy" in access:
        settings.setdefault("admin", Admin("socket", explicit=True, memory=True, by_policy=True))

    async def run() -> None:
        async with in_process(folder, access=access, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def shows(client: str = "", token: str = "") -> dict[str, str]:
    """The credentials of a call, alike for both."""
    key = {"x-api-key": KEYS[client]} if client else {}
    return key | ({"authorization": f"Bearer {token}"} if token else {})


def tensors(model: str = "plain") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id="mine")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(b"\0" * 12)
    return request


def image(model: str = "colours", images: int = 1) -> vision.ClassifyRequest:
    request = vision.ClassifyRequest(model=model)
    for _ in range(images):
        request.images.add(raw=vision.RawImage(rgb=bytes(SIDE * SIDE * 3), height=SIDE, width=SIDE))
    return request


async def rpc(served: InProcess, method: str, message: Any, shown: dict[str, str]) -> Any:
    """The answer, or the error."""
    unary: Any = served.channel.unary_unary(method)
    try:
        answer: bytes = await unary(
            message.SerializeToString(), timeout=10, metadata=tuple(shown.items())
        )
    except grpc.aio.AioRpcError as error:
        return error
    return answer


async def code(served: InProcess, method: str, message: Any, shown: dict[str, str]) -> str:
    answer = await rpc(served, method, message, shown)
    return answer.code().name if isinstance(answer, grpc.aio.AioRpcError) else "OK"


async def status(served: InProcess, path: str, shown: dict[str, str], body: Any = None) -> int:
    """Of a GET, or of a POST of a body."""
    method = "GET" if body is None else "POST"
    async with served.http.request(method, path, headers=shown, json=body) as answer:
        return answer.status


REST_TENSORS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}]}

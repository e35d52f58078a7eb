"""Who may come in, asked over both wires and REST: each refusal has its status and its reason, and
what one may not see is not there."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.batching.batcher import DynamicBatcher
from serving.models.catalogue import State
from serving.server.access.caller import Caller
from serving.server.access.keys import ApiKey, digest_of, new_key
from serving.server.endpoints.admin import Admin, TokenFile
from tests.support.in_process import SIDE, InProcess, in_process
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, issuing
from tests.support.pictures import encoded
from tests.support.raw_http import sent_and_reset
from tests.support.raw_http2 import whole_call

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


def test_nothing_changes_where_nothing_is_set(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        assert served.front.door is None
        shown = {"authorization": "Bearer wrong", "x-api-key": "wrong"}
        assert await code(served, OIP + "ModelInfer", tensors(), shown) == "OK"
        assert await status(served, "/v2/models/plain", shown) == 200

    serve(tmp_path, scenario, {})


def test_caller_who_is_not_known_gets_in_nowhere_but_to_the_probes(
    wire: str, tmp_path: Path, place: Place, issuer: Issuer
) -> None:
    wrong = {
        "nothing": (
            {},
            "the call does not say who makes it: expected 'authorization: Bearer TOKEN'",
        ),
        "key": ({"x-api-key": "convserve_x"}, "the API key is not accepted"),
        "other key": ({"authorization": "ApiKey convserve_x"}, "the API key is not accepted"),
        "token": ({"authorization": "Bearer a.b.c"}, "the bearer token is not accepted"),
        "expired": (shows(token=issuer.token(exp=int(time.time()) - 60)), "token has expired"),
        # The first that he shows is judged alone.
        "both": (shows("clinic") | {"authorization": "Bearer x"}, "bearer token is not accepted"),
        "basic": ({"authorization": "Basic YTpi"}, "the call does not say who makes it"),
    }

    async def scenario(served: InProcess) -> None:
        for shown, reason in wrong.values():
            for method, message in (
                ("ModelInfer", tensors()),
                ("ModelMetadata", pb.ModelMetadataRequest(name="plain")),
                ("RepositoryIndex", pb.RepositoryIndexRequest()),
                ("LogSettings", pb.LogSettingsRequest()),
                ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain")),
            ):
                error = await rpc(served, OIP + method, message, shown)
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED
                assert reason in error.details()
            assert await code(served, VISION + "Classify", image(), shown) == "UNAUTHENTICATED"
            for path, body in (
                ("/v2", None),
                ("/v2/models/plain", None),
                ("/v2/models/stats", None),
                ("/v2/models/plain/infer", REST_TENSORS),
                ("/v2/repository/index", {"ready": True}),
                ("/debug/batches", None),
                ("/debug/metrics", None),
                ("/v2/repository/rights", None),
            ):
                method = "GET" if body is None else "POST"
                async with served.http.request(method, path, headers=shown, json=body) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="convserve"'
                    assert reason in (await answer.json())["error"]
            for stream in (VISION + "ClassifyStream", OIP + "ModelStreamInfer", REFLECTION):
                calls: Any = served.channel.stream_stream(stream)
                call = calls(timeout=10, metadata=tuple(shown.items()))
                if stream == REFLECTION:
                    await call.write(b"")
                assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
            for probe in ("/v2/health/live", "/v2/health/ready", "/livez", "/readyz"):
                assert await status(served, probe, shown) == 200
            for probe in ("ServerLive", "ServerReady"):
                assert await code(served, OIP + probe, pb.ServerLiveRequest(), shown) == "OK"
            assert await code(served, HEALTH, HealthCheckRequest(), shown) == "OK"

    serve(tmp_path, scenario, place.known, wire_name=wire)


@pytest.mark.parametrize("ruled", [False, True])
def test_caller_who_leaves_before_he_is_let_in_is_not_the_admin_of_the_socket(
    ruled: bool, tmp_path: Path, place: Place
) -> None:
    """On the loop of `convserve serve`, which knows no address of his."""
    unload = pb.RepositoryModelUnloadRequest(model_name="plain").SerializeToString()
    call = whole_call(OIP + "RepositoryModelUnload", unload)
    post = b"POST /v2/repository/models/plain/unload HTTP/1.1\r\nHost: localhost\r\n"
    rest = post + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    async def run() -> bool:
        """Whether both calls are refused, and the model still serves."""
        admin = Admin("socket", explicit=True, memory=True, by_policy=ruled)
        access = place.ruled if ruled else {}
        counted = {"method": "RepositoryModelUnload"}
        counted["code"] = "UNAUTHENTICATED" if ruled else "PERMISSION_DENIED"
        async with in_process(tmp_path, admin=admin, access=access, wire_name="native") as served:
            entry = served.front.catalogue.entries["plain"]

            def refused() -> float:
                return served.value("convserve_control_calls_total", **counted)

            for number, (url, data) in enumerate(((f"http://{served.urls[0]}", call),
                                                  (served.urls[1], rest))):  # fmt: skip
                while refused() <= number and entry.state is State.READY:
                    sent_and_reset(url, data)
                    await asyncio.sleep(0.01)  # a call that has left shows nowhere else
            return entry.state is State.READY

    assert uvloop.run(asyncio.wait_for(run(), 20))


def test_caller_who_is_known_may_do_what_everybody_may_and_admins_the_rest(
    wire: str, tmp_path: Path, place: Place, issuer: Issuer
) -> None:
    async def scenario(served: InProcess) -> None:
        for shown in (
            shows("clinic"),
            {"authorization": f"ApiKey {KEYS['clinic']}"},
            shows(token=issuer.token()),
            shows("lab", issuer.token()),
        ):
            assert await code(served, OIP + "ModelInfer", tensors(), shown) == "OK"
            assert await code(served, VISION + "Classify", image(), shown) == "OK"
            assert await status(served, "/v2/models/plain/infer", shown, REST_TENSORS) == 200
            assert await status(served, "/v2/models/stats", shown) == 200
            assert await status(served, "/debug/batches", shown) == 200
            assert await status(served, "/debug/metrics", shown) == 200
            unload = pb.RepositoryModelUnloadRequest(model_name="plain")
            refused = await rpc(served, OIP + "RepositoryModelUnload", unload, shown)
            assert refused.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "--admin-open repository" in refused.details()
        admin = {"authorization": "Bearer the-token-of-the-admin"}
        assert await status(served, "/v2/logging", admin, {"log_info": True}) == 200

    token = tmp_path / "token"
    token.write_text("the-token-of-the-admin")
    token.chmod(0o600)
    admin = Admin("token", token=TokenFile(token), explicit=True, memory=True)
    serve(tmp_path, scenario, place.known, admin=admin, wire_name=wire)


def test_policy_decides_over_every_wire(
    wire: str, tmp_path: Path, place: Place, issuer: Issuer
) -> None:
    async def scenario(served: InProcess) -> None:
        lab, clinic, ops = shows("lab"), shows("clinic"), shows("ops")
        alice = shows(token=issuer.token("alice"))
        by_role = shows(token=issuer.token("bob", roles=["ops"]))
        for shown, model, expected, http in (
            (lab, "plain", "OK", 200),
            (lab, "regions", "NOT_FOUND", 404),
            (clinic, "plain", "NOT_FOUND", 404),
            (alice, "plain", "NOT_FOUND", 404),
            (clinic, "none", "NOT_FOUND", 404),
            (shows("nobody"), "plain", "NOT_FOUND", 404),
            (shows(token=issuer.token("eve")), "plain", "NOT_FOUND", 404),
            (ops, "plain", "PERMISSION_DENIED", 403),
            (by_role, "plain", "PERMISSION_DENIED", 403),
        ):
            assert await code(served, OIP + "ModelInfer", tensors(model), shown) == expected
            path = f"/v2/models/{model}/infer"
            assert await status(served, path, shown, REST_TENSORS) == http
        assert await code(served, VISION + "Classify", image(), alice) == "OK"
        assert await code(served, VISION + "Embed", image("points"), alice) == "PERMISSION_DENIED"
        metadata, statistics = pb.ModelMetadataRequest, pb.ModelStatisticsRequest
        for method, message, shown, expected in (
            ("ModelMetadata", metadata(name="points"), clinic, "OK"),
            ("ModelMetadata", metadata(name="plain"), clinic, "NOT_FOUND"),
            ("ModelMetadata", metadata(name="plain"), lab, "PERMISSION_DENIED"),
            ("ModelConfig", pb.ModelConfigRequest(name="plain"), clinic, "NOT_FOUND"),
            ("ModelConfig", pb.ModelConfigRequest(name="points"), clinic, "OK"),
            ("ModelStatistics", statistics(name="points"), clinic, "PERMISSION_DENIED"),
            ("ModelStatistics", statistics(name="plain"), clinic, "NOT_FOUND"),
            ("ServerMetadata", pb.ServerMetadataRequest(), clinic, "OK"),
            ("ServerMetadata", pb.ServerMetadataRequest(), lab, "PERMISSION_DENIED"),
            ("LogSettings", pb.LogSettingsRequest(), lab, "PERMISSION_DENIED"),
            ("LogSettings", pb.LogSettingsRequest(), ops, "OK"),
            ("TraceSetting", pb.TraceSettingRequest(model_name="plain"), clinic, "NOT_FOUND"),
            ("TraceSetting", pb.TraceSettingRequest(model_name="plain"), by_role, "OK"),
            ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), ops, "OK"),
            ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(), lab,
             "PERMISSION_DENIED"),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain"), lab,
             "PERMISSION_DENIED"),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain"), clinic,
             "NOT_FOUND"),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="none"), clinic,
             "NOT_FOUND"),
            ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain"), ops,
             "OK"),
        ):  # fmt: skip
            assert await code(served, OIP + method, message, shown) == expected, (method, shown)
        for path, shown, expected in (
            ("/v2/models/plain", clinic, 404),
            ("/v2/models/plain/config", lab, 403),
            ("/v2/models/plain/stats", clinic, 404),
            ("/debug/batches", clinic, 403),
            ("/debug/batches", ops, 200),
            ("/debug/batches?model=plain", ops, 200),
            ("/debug/batches?model=colours", clinic, 403),
            ("/debug/batches?model=plain", clinic, 404),
            ("/debug/batches?model=none!", ops, 404),
            ("/debug/metrics", clinic, 403),
            ("/debug/metrics", ops, 200),
            ("/v2/logging", clinic, 200),
        ):
            assert await status(served, path, shown) == expected, path
        assert await status(served, "/v2/logging", clinic, {"log_info": True}) == 403
        calls: Any = served.channel.stream_stream(REFLECTION)
        asked = ServerReflectionRequest(list_services="").SerializeToString()
        assert [x async for x in calls(iter([asked]), metadata=tuple(clinic.items()))]
        refused = calls(metadata=tuple(lab.items()))
        await refused.write(asked)
        assert await refused.code() == grpc.StatusCode.PERMISSION_DENIED

    serve(tmp_path, scenario, place.ruled, wire_name=wire)


def test_what_one_may_not_see_is_nowhere(wire: str, tmp_path: Path, place: Place) -> None:
    async def scenario(served: InProcess) -> None:
        clinic, lab = shows("clinic"), shows("lab")

        async def index(shown: dict[str, str]) -> list[str]:
            answer = await rpc(served, OIP + "RepositoryIndex", pb.RepositoryIndexRequest(), shown)
            _, listed = await served.rest("POST", "/v2/repository/index", headers=shown)
            names = [model["name"] for model in listed]
            assert names == [m.name for m in pb.RepositoryIndexResponse.FromString(answer).models]
            return names

        assert await index(clinic) == ["colours", "points"]
        assert await index(lab) == ["colours", "plain"]
        assert await index(shows("nobody")) == []
        assert len(await index(shows("ops"))) == 4
        _, stats = await served.rest("GET", "/v2/models/stats", headers=clinic)
        assert {line["name"] for line in stats["model_stats"]} == {"colours"}
        # The answer to what is hidden, and to what is not there, is one and the same.
        said = []
        for name in ("regions", "absent!"):
            error = await rpc(served, OIP + "ModelInfer", tensors(name), clinic)
            said.append(error.details().replace(name, "NAME"))
            _, found = await served.rest(
                "POST", f"/v2/models/{name}/infer", headers=clinic, json=REST_TENSORS
            )
            said.append(found["error"].replace(name, "NAME"))
        assert set(said) == {"no model 'NAME'; this server has ['colours', 'points']"}
        # Nor do the probes tell, which everybody may ask.
        for shown, model, ready in (
            (clinic, "colours", True), (clinic, "regions", False), ({}, "colours", False),
            ({"x-api-key": "x"}, "colours", False),
        ):  # fmt: skip
            asked = pb.ModelReadyRequest(name=model)
            answer = await rpc(served, OIP + "ModelReady", asked, shown)
            assert pb.ModelReadyResponse.FromString(answer).ready == ready
            assert await status(served, f"/v2/models/{model}/ready", shown) == (
                200 if ready else 400
            )
            expected = "OK" if ready else "NOT_FOUND"
            assert await code(served, HEALTH, HealthCheckRequest(service=model), shown) == expected
        entry = served.front.catalogue.entries["regions"]
        entry.state, entry.problem = State.UNAVAILABLE, "broken"
        for shown, told in (({}, False), (clinic, False), (shows("ops"), True)):
            async with served.http.get("/readyz", headers=shown) as readyz:
                assert ("regions" in await readyz.text()) == told

        async with served.http.get("/debug/batches?model=regions", headers=clinic) as answer:
            said = (await answer.json())["error"]
        assert said == "no model 'regions'; this server has ['colours', 'points']"
        # Of the models that he may load, the catalogue has one.
        for shown, names in ((clinic, []), (lab, []), (shows("ops"), sorted(served.engines))):
            _, rights = await served.rest("GET", "/v2/repository/rights", headers=shown)
            assert rights == {"load": names}

    serve(tmp_path, scenario, place.ruled, wire_name=wire)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (OIP + "ModelInfer", tensors("")),
        (OIP + "ModelMetadata", pb.ModelMetadataRequest()),
        (OIP + "ModelConfig", pb.ModelConfigRequest()),
        (OIP + "RepositoryModelUnload", pb.RepositoryModelUnloadRequest()),
        (OIP + "RepositoryModelLoad", pb.RepositoryModelLoadRequest()),
        (VISION + "Classify", image("")),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)
def test_call_without_a_name_lists_no_model_that_one_may_not_see(
    method: str, message: Any, tmp_path: Path, place: Place
) -> None:
    async def scenario(served: InProcess) -> None:
        error = await rpc(served, method, message, shows("clinic"))
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert error.details().startswith("no model ''; this server has [")
        assert not {"plain", "regions"} & set(error.details().split("'"))

    serve(tmp_path, scenario, place.ruled)


def test_anonymous_callers_have_what_the_policy_gives_them(tmp_path: Path, place: Place) -> None:
    place.write_policy(
        more="  anybody:\n    members: [anonymous]\n    rights: [{models: [plain], "
        "actions: [infer]}]\n"
    )

    async def scenario(served: InProcess) -> None:
        assert await code(served, OIP + "ModelInfer", tensors(), {}) == "OK"
        assert await code(served, OIP + "ModelInfer", tensors("colours"), {}) == "NOT_FOUND"
        wrong = {"x-api-key": "wrong"}
        assert await code(served, OIP + "ModelInfer", tensors(), wrong) == "UNAUTHENTICATED"

    serve(tmp_path, scenario, place.ruled)


@pytest.mark.parametrize("shares", ["key", "policy"])
def test_change_of_a_file_holds_from_the_next_call(
    shares: str, tmp_path: Path, place: Place
) -> None:
    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        stream: Any = served.channel.stream_stream(OIP + "ModelStreamInfer")
        call = stream(metadata=tuple(lab.items()))

        async def answered() -> pb.ModelStreamInferResponse:
            await call.write(tensors().SerializeToString())
            return pb.ModelStreamInferResponse.FromString(await call.read())

        assert not (await answered()).error_message
        if shares == "key":
            place.write_keys("clinic")
            expected = "the API key is not accepted"
        else:
            place.policy.write_text(POLICY.replace("{LIMITS}", "{}").replace("plain, ", ""))
            expected = "no model 'plain'"
        # Also on a stream that was open.
        while not (said := (await answered()).error_message):
            await asyncio.sleep(0.005)  # until the file was looked at
        assert expected in said
        place.policy.write_text("groups: 3")
        place.write_keys("lab")
        while not served.value("convserve_access_failures_total", flag="--policy"):
            await asyncio.sleep(0.005)  # until both files were looked at
        await call.done_writing()

    serve(tmp_path, scenario, place.ruled)


LIMITED = [
    ("requests_per_second: 1", "requests_per_second 1"),
    ("requests_per_day: 1", "requests_per_day 1"),
    ("images_per_second: 1", "images_per_second 1"),
    ("images_per_day: 1", "images_per_day 1"),
    ("pixels_per_second: 1", "pixels_per_second 1"),
]


@pytest.mark.parametrize(("limit", "said"), LIMITED, ids=[limit for limit, _ in LIMITED])
def test_limit_that_is_reached_says_when_to_try_again(
    limit: str, said: str, tmp_path: Path, place: Place
) -> None:
    place.write_policy(f"{{{limit}}}")

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        assert await code(served, VISION + "Classify", image(images=8), lab) == "OK"
        error = await rpc(served, OIP + "ModelInfer", tensors(), lab)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == f"your limit is reached: {said}"
        [details] = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
        retry = RetryInfo()
        assert Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.ToNanoseconds() > 0
        async with served.http.post(
            "/v2/models/plain/infer", headers=lab, json=REST_TENSORS
        ) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        assert await code(served, OIP + "ModelInfer", tensors("colours"), shows("clinic")) != (
            "RESOURCE_EXHAUSTED"
        )

    serve(tmp_path, scenario, place.ruled)


def test_calls_that_began_together_take_no_more_images_than_the_day_has(
    tmp_path: Path, place: Place
) -> None:
    """Over REST a call is let in by its head, and says how many it brings in its body."""
    place.write_policy("{images_per_day: 3}")
    body = json.dumps(REST_TENSORS).encode()
    going_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:5]
        await going_on.wait()
        yield body[5:]

    async def scenario(served: InProcess) -> None:
        async def call() -> int:
            path, headers = "/v2/models/plain/infer", shows("lab")
            async with served.http.post(path, data=slow(), headers=headers) as answer:
                return answer.status

        calls = [asyncio.create_task(call()) for _ in range(10)]
        account = served.front.door.visit(Caller("", api_key=KEYS["lab"])).account
        while account.calls < 10:
            await asyncio.sleep(0.005)  # until all are let in
        going_on.set()
        assert sorted(await asyncio.gather(*calls)) == [200] * 3 + [429] * 7

    serve(tmp_path, scenario, place.ruled)


def test_pixels_of_an_image_that_breaks_at_its_end_count(tmp_path: Path, place: Place) -> None:
    place.write_policy("{pixels_per_second: 1}")
    broken = vision.ClassifyRequest(model="colours")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    broken.images.add(encoded=encoded(noise, "PNG")[:-1000])

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        assert await code(served, VISION + "Classify", broken, lab) == "INVALID_ARGUMENT"
        assert await code(served, VISION + "Classify", image(), lab) == "RESOURCE_EXHAUSTED"

    serve(tmp_path, scenario, place.ruled)


def test_rows_of_tensors_count_as_images(tmp_path: Path, place: Place) -> None:
    place.write_policy("{images_per_day: 3}")
    request = pb.ModelInferRequest(model_name="plain")
    request.inputs.add(name="x", datatype="FP32", shape=[4, 3])
    request.raw_input_contents.append(b"\0" * 48)

    async def scenario(served: InProcess) -> None:
        method = OIP + "ModelInfer"
        assert await code(served, method, request, shows("lab")) == "OK"
        assert await code(served, method, request, shows("lab")) == "RESOURCE_EXHAUSTED"

    serve(tmp_path, scenario, place.ruled)


def test_bytes_calls_and_streams_are_limited_at_a_time(tmp_path: Path, place: Place) -> None:
    place.write_policy("{bytes_held: 10, streams: 1, calls: 1}")

    async def scenario(served: InProcess) -> None:
        lab = shows("lab")
        error = await rpc(served, OIP + "ModelInfer", tensors(), lab)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "your limit is reached: bytes_held 10"
        assert served.front.budget.used == 0
        stream: Any = served.channel.stream_stream(OIP + "ModelStreamInfer")
        first = stream(metadata=tuple(lab.items()))
        await first.write(tensors().SerializeToString())
        answer = pb.ModelStreamInferResponse.FromString(await first.read())
        assert "bytes_held" in answer.error_message
        other = stream(metadata=tuple(lab.items()))
        assert await other.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await other.details() == "your limit is reached: streams 1"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        second = stream(metadata=tuple(lab.items()))
        await second.done_writing()
        assert await second.read() is grpc.aio.EOF

    serve(tmp_path, scenario, place.ruled)


def test_calls_are_counted_by_caller(tmp_path: Path, place: Place, issuer: Issuer) -> None:
    async def scenario(served: InProcess) -> None:
        await code(served, OIP + "ModelInfer", tensors(), shows("lab"))
        await code(served, OIP + "ModelInfer", tensors(), {"x-api-key": "wrong"})
        for number in range(150):
            token = issuer.token(f"user-{number}")
            await code(
                served, OIP + "RepositoryIndex", pb.RepositoryIndexRequest(), shows("", token)
            )
        [family] = [f for f in served.metrics.registry.collect() if "caller_calls" in f.name]
        found = {(s.labels["caller"], s.labels["code"]): s.value for s in family.samples}
        assert found["key:lab", "OK"] == found["", "UNAUTHENTICATED"] == 1
        assert found["jwt:user-0", "OK"] == 1
        assert len({caller for caller, _ in found}) == 102
        assert found["others", "OK"] == 51

    serve(tmp_path, scenario, place.known)


@pytest.mark.parametrize("apart", [True, False])
def test_batches_are_shared_by_callers_where_they_are_told_apart(
    apart: bool, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    admit = DynamicBatcher.admit

    def noted(self: DynamicBatcher, *given: Any) -> Any:
        numbers.append(given[4])
        return admit(self, *given)

    monkeypatch.setattr(DynamicBatcher, "admit", noted)

    async def scenario(served: InProcess) -> None:
        for client in ("lab", "clinic", "lab"):
            await code(served, VISION + "Classify", image(), shows(client))
            await code(served, OIP + "ModelInfer", tensors(), shows(client))

    serve(tmp_path, scenario, place.known if apart else {})
    assert len(numbers) == 6
    assert len(set(numbers)) == (2 if apart else 1)
    assert all(numbers) == apart


def test_wrong_token_of_an_admin_is_not_passed_over(tmp_path: Path, place: Place) -> None:
    """Neither for another credential nor for what strangers may do."""
    place.write_policy(
        more="  anybody:\n    members: [anonymous]\n    rights: [{models: [plain], "
        "actions: [infer]}]\n"
    )
    token = tmp_path / "token"
    token.write_text("the-token-of-the-admin")
    token.chmod(0o600)
    access = {"api_keys": place.keys, "policy": place.policy}
    access |= {"admin": "token", "admin_token_file": token}

    async def scenario(served: InProcess) -> None:
        wrong = {"authorization": "Bearer the-token-of-no-admin"}
        for shown in (wrong, wrong | shows("lab")):
            error = await rpc(served, OIP + "ModelInfer", tensors(), shown)
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            assert error.details() == "the bearer token is not accepted"
        for shown in ({}, shows("lab"), {"authorization": "Bearer the-token-of-the-admin"}):
            assert await code(served, OIP + "ModelInfer", tensors(), shown) == "OK"

    admin = Admin("token", token=TokenFile(token), explicit=True, memory=True, by_policy=True)
    serve(tmp_path, scenario, access, admin=admin)


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__ for record in caplog.records if record.name == "audit"]


def test_refusals_admin_calls_and_samples_are_on_record(
    tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(served: InProcess) -> None:
        method = OIP + "ModelInfer"
        await code(served, method, tensors(), shows("lab"))
        await code(served, method, tensors("regions"), shows("lab"))
        await code(served, method, tensors(), {"x-api-key": "wrong"})
        await status(served, "/v2/logging", shows("ops"), {"log_error": False, "log_info": False})
        await status(served, "/v2/logging", shows("lab"), {"log_error": True})
        await status(served, "/v2/models/colours", shows("clinic"))
        stream: Any = served.channel.stream_stream(VISION + "ClassifyStream")
        await stream(metadata=(("x-api-key", "wrong"),)).code()

    with caplog.at_level(logging.INFO, "audit"):
        serve(tmp_path, scenario, place.ruled | {"audit_sample": 1.0})
    told = [
        (line.get("who"), line["method"], line.get("action"),
         line.get("target"), line["decision"], line["code"])
        for line in audited(caplog)
    ]  # fmt: skip
    assert told == [
        ("key:lab", "ModelInfer", "infer", "plain", "allowed", "OK"),
        ("key:lab", "ModelInfer", "infer", "regions", "refused", "NOT_FOUND"),
        (None, "ModelInfer", None, None, "refused", "UNAUTHENTICATED"),
        ("key:ops", "LogSettings", "settings", None, "allowed", "OK"),
        ("key:lab", "LogSettings", "settings", None, "refused", "PERMISSION_DENIED"),
        (None, "ClassifyStream", None, None, "refused", "UNAUTHENTICATED"),
    ]
    assert {line["address"] for line in audited(caplog)} == {"127.0.0.1"}
    assert [line.get("request_id") for line in audited(caplog)][:2] == ["mine", "mine"]


def test_record_says_also_without_a_policy_what_an_admin_wanted(
    tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    admins = {
        "refused": Admin("off", explicit=True, memory=True),
        "allowed": Admin("open", explicit=True, memory=True),
    }

    async def scenario(served: InProcess) -> None:
        await status(served, "/v2/models/plain/trace/setting", shows("lab"), {"trace_rate": "2"})

    with caplog.at_level(logging.INFO, "audit"):
        for admin in admins.values():
            serve(tmp_path, scenario, place.known, admin=admin)
    told = [(line["decision"], line["action"], line.get("target")) for line in audited(caplog)]
    assert told == [("refused", "settings", None), ("allowed", "settings", "plain")]


def test_no_credential_and_no_image_is_in_any_line(
    wire: str, tmp_path: Path, place: Place, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """At every level, also where the server fails with a traceback."""
    secret_pixels = b"SECRETPIXELS" * 4
    good, expired = issuer.token(), issuer.token(exp=1)
    secrets = [KEYS["clinic"], "wrong-key-wrong-key", good, expired, "no.token.atall"]

    async def scenario(served: InProcess) -> None:
        for engine in served.engines.values():
            engine.failure = RuntimeError("the engine broke")
        raw = vision.RawImage(rgb=secret_pixels, height=4, width=4)
        picture = vision.ClassifyRequest(model="colours", images=[vision.Image(raw=raw)])
        encoded = vision.ClassifyRequest(model="colours")
        encoded.images.add(encoded=b"\xff\xd8" + secret_pixels)
        for secret in secrets:
            for shown in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
                for message in (picture, encoded):
                    error = await rpc(served, VISION + "Classify", message, shown)
                    assert secret not in str(error)
                await rpc(served, OIP + "LogSettings", pb.LogSettingsRequest(), shown)
                await status(served, "/v2/models/plain/infer", shown, REST_TENSORS)
                await status(served, f"/v2/models/{'x' * 300}", shown)
                await status(served, "/v2/none", shown)

        def broken(*_: Any) -> Any:
            raise RuntimeError("a fault of ours")

        served.front.catalogue.get = broken  # type: ignore[method-assign]
        shown = shows("clinic")
        assert await code(served, VISION + "Classify", picture, shown) == "INTERNAL"
        assert await status(served, "/v2/models/colours", shown) == 500

    with caplog.at_level(logging.DEBUG):
        serve(tmp_path, scenario, place.ruled | {"audit_sample": 1.0}, slow_seconds=1e-9,
              wire_name=wire)  # fmt: skip
    formatter = logging.Formatter()
    lines = [formatter.format(r) + json.dumps(r.__dict__, default=repr) for r in caplog.records]
    assert any("a fault of ours" in line for line in lines)
    assert any("slow call" in line for line in lines)
    assert any('"name": "audit"' in line for line in lines)
    for line in lines:
        for secret in (*secrets, "SECRETPIXELS"):
            assert secret not in line


def test_health_of_a_model_is_followed_by_who_may_see_it(tmp_path: Path, place: Place) -> None:
    async def scenario(served: InProcess) -> None:
        watch: Any = served.channel.unary_stream("/grpc.health.v1.Health/Watch")
        asked = HealthCheckRequest(service="colours").SerializeToString()
        for shown, expected in (
            (shows("clinic"), HealthCheckResponse.SERVING),
            ({}, HealthCheckResponse.SERVICE_UNKNOWN),
        ):
            call = watch(asked, metadata=tuple(shown.items()))
            assert HealthCheckResponse.FromString(await call.read()).status == expected
            call.cancel()

    serve(tmp_path, scenario, place.ruled)

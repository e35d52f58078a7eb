"""Who is let in over each wire, and what a server knows callers by."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from grpc_health.v1.health_pb2 import HealthCheckRequest

from protos.gen import grpc_service_pb2 as pb
from serving.batching.batcher import DynamicBatcher
from serving.models.catalogue import State
from serving.server.endpoints.admin import Admin, TokenFile
from tests.serving.server.access.served.conftest import (
    HEALTH,
    KEYS,
    OIP,
    REFLECTION,
    REST_TENSORS,
    VISION,
    Place,
    code,
    image,
    rpc,
    serve,
    shows,
    status,
    tensors,
)
from tests.support.in_process import InProcess, in_process
from tests.support.issuer import Issuer
from tests.support.raw_http import sent_and_reset
from tests.support.raw_http2 import whole_call


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

"""What a policy permits over each wire: what one may not see is not there."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from protos.gen import grpc_service_pb2 as pb
from serving.models.catalogue import State
from tests.serving.server.access.served.conftest import (
    HEALTH,
    OIP,
    POLICY,
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
from tests.support.in_process import InProcess
from tests.support.issuer import Issuer


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

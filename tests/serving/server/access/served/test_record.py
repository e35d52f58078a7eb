"""What is written down of calls, and that no secret is."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from serving.server.endpoints.admin import Admin
from tests.serving.server.access.served.conftest import (
    KEYS,
    OIP,
    REST_TENSORS,
    VISION,
    Place,
    code,
    rpc,
    serve,
    shows,
    status,
    tensors,
)
from tests.support.in_process import InProcess
from tests.support.issuer import Issuer


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

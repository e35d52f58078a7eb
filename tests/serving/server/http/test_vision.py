"""The vision service over REST: an image in a body, and the same answer as over gRPC."""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protos.gen import vision_pb2 as pb
from serving.server.access.keys import ApiKey, digest_of, new_key
from serving.server.endpoints.admin import Admin
from serving.server.http import vision as rest
from tests.support.in_process import CLASSES, SIDE, InProcess, in_process
from tests.support.pictures import encoded

MODELS = "/vision/v1/models"
VISION = "/convserve.vision.v1.VisionService/"

Scenario = Callable[[InProcess], Awaitable[None]]


def serve(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        async with in_process(folder, **settings) as served:
            await scenario(served)

    asyncio.run(run())


def picture(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 100
    return pixels


PNG = encoded(picture(), "PNG")


async def ask(
    served: InProcess, model: str, method: str, data: bytes = PNG, **options: Any
) -> tuple[int, Any]:
    return await served.rest("POST", f"{MODELS}/{model}/{method}", data=data, **options)


def test_classify_gives_what_the_vision_service_gives(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        request = pb.ClassifyRequest(model="colours", images=[pb.Image(encoded=PNG)], top_k=2)
        expected = pb.ClassifyResponse.FromString(await served.rpc(VISION + "Classify", request))
        for path in ("colours", "colours/versions/1"):
            status, answer = await ask(served, path, "classify", params={"top_k": "2"})
            assert status == 200
            assert [(x["index"], x["name"]) for x in answer["labels"]] == [(0, "red"), (2, "blue")]
            scores = [x.score for x in expected.results[0].labels]
            assert [x["score"] for x in answer["labels"]] == pytest.approx(scores)
            assert [answer[key] for key in ("model", "version", "variant")] == [
                "colours", "1", "fp32",
            ]  # fmt: skip
            timing = answer["timing"]
            assert set(timing) == {f.name for f in pb.Timing.DESCRIPTOR.fields}
            assert timing["infer_us"] > 0
            assert timing["batch_size"] == 1
        low = await ask(served, "colours", "classify", params={"threshold": "0.5"})
        assert [x["name"] for x in low[1]["labels"]] == ["red"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize(("size", "shape"), [("image", (6, 10)), ("model", (SIDE, SIDE))])
def test_segment_gives_the_class_of_each_pixel_at_either_size(
    tmp_path: Path, size: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = shape
    assert rest._SLICE % 3 == 0  # so that the base64 of slices is that of the whole
    monkeypatch.setattr(rest, "_SLICE", 21)

    async def scenario(served: InProcess) -> None:
        data = encoded(picture(6, 10), "PNG")
        status, answer = await ask(served, "regions", "segment", data, params={"mask_size": size})
        assert (status, answer["height"], answer["width"]) == (200, height, width)
        raw = base64.b64decode(answer["raw"])
        mask = np.frombuffer(raw, np.uint8).reshape(height, width)
        assert (mask[:, 0] == 0).all()
        assert (mask[:, -1] == 2).all()
        assert [(x["name"], x["fraction"]) for x in answer["areas"]] == [
            ("red", 0.5), ("blue", 0.5),
        ]  # fmt: skip
        options = {"mask_size": size, "mask_format": "palette_png"}
        status, answer = await ask(served, "regions", "segment", data, params=options)
        found = Image.open(io.BytesIO(base64.b64decode(answer["palette_png"])))
        assert (status, found.mode) == (200, "P")
        assert np.array_equal(np.asarray(found), mask)

    serve(tmp_path, scenario)


def test_embed_gives_a_point_on_the_unit_sphere(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        status, answer = await ask(served, "points", "embed")
        assert status == 200
        assert np.linalg.norm(answer["values"]) == pytest.approx(1)

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("model", "method", "options", "status", "said"),
    [
        ("colours", "classify", {"data": b"no image"}, 400, "image"),
        ("colours", "classify", {"data": b""}, 400, "image"),
        ("colours", "segment", {}, 400, "is for classification, not for segmentation"),
        ("plain", "classify", {}, 400, "plain tensors"),
        ("<img onerror>", "classify", {}, 404, "no model '<img onerror>'"),
        ("colours/versions/7", "classify", {}, 404, "has no version '7'"),
        ("colours", "classify", {"params": {"top": "3"}}, 400, "no parameter 'top'"),
        ("colours", "embed", {"params": {"top_k": "3"}}, 400, "no parameter 'top_k'"),
        ("colours", "classify", {"params": {"top_k": "-1"}}, 400, "top_k: expected a whole"),
        ("colours", "classify", {"params": {"top_k": "0"}}, 400, "top_k: expected 1 or more"),
        ("colours", "classify", {"params": {"top_k": "9" * 5000}}, 400, "top_k"),
        ("colours", "classify", {"params": {"threshold": "nan"}}, 400, "threshold: expected 0 to"),
        ("colours", "classify", {"params": {"threshold": "x"}}, 400, "threshold: expected 0 to"),
        ("regions", "segment", {"params": {"mask_size": "big"}}, 400, "image or model"),
        ("regions", "segment", {"params": {"mask_format": "gif"}}, 400, "raw or palette_png"),
        ("colours", "classify", {"params": {"priority": "x"}}, 400, "priority"),
        ("colours", "classify", {"headers": {"Grpc-Timeout": "1n"}}, 429, ""),
        ("colours", "classify", {"headers": {"Origin": "http://evil.example"}}, 403, "Origin"),
        ("colours", "classify", {"data": b" " * 70_000}, 413, "more than 65536 bytes"),
    ],
)
def test_bad_call_gets_one_line_that_says_what_is_wrong(
    tmp_path: Path, model: str, method: str, options: dict[str, Any], status: int, said: str
) -> None:
    async def scenario(served: InProcess) -> None:
        found, answer = await ask(served, model, method, **options)
        assert (found, set(answer)) == (status, {"error"})
        assert said in answer["error"]
        assert len(answer["error"]) < 600
        assert (await ask(served, "colours", "classify"))[0] == 200

    serve(tmp_path, scenario, max_body=1 << 16)


def test_image_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    large = encoded(np.zeros((200, 200, 3), np.uint8), "PNG")  # of 10,000 at most

    async def scenario(served: InProcess) -> None:
        status, answer = await ask(served, "colours", "classify", large)
        assert status == 400
        assert "pixels" in answer["error"]

    serve(tmp_path, scenario)


def test_answer_that_is_too_large_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        data = encoded(picture(90, 90), "PNG")
        status, answer = await ask(served, "regions", "segment", data)
        assert status == 400
        assert "ask for mask_size=model or mask_format=palette_png" in answer["error"]
        assert (await ask(served, "colours", "classify"))[0] == 200
        assert (await served.rest("GET", MODELS))[0] == 400

    serve(tmp_path, scenario, max_answer=600)


def test_calls_are_counted_with_their_model_and_hold_no_memory_afterwards(tmp_path: Path) -> None:
    async def scenario(served: InProcess) -> None:
        for model, method in (("colours", "classify"), ("regions", "segment"), ("points", "embed")):
            await ask(served, model, method)
            name = f"Rest{method.capitalize()}"
            counted = {"model": model, "version": "1", "method": name, "code": "OK"}
            assert served.value("convserve_requests_total", **counted) == 1
            assert served.value("nv_inference_count", model=model, version="1") == 1
        assert served.front.budget.used == 0

    serve(tmp_path, scenario)


def test_models_are_told_with_what_serves_and_why_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()

    async def scenario(served: InProcess) -> None:
        status, answer = await served.rest("GET", MODELS)
        models = {model["name"]: model for model in answer["models"]}
        assert status == 200
        assert list(models) == ["broken", "colours", "plain", "points", "regions"]
        assert models["broken"]["state"] != "READY"
        colours = models["colours"]
        assert (colours["task"], colours["variant"], colours["engine"]) == (
            "classification", "fp32", "fake",
        )  # fmt: skip
        assert (colours["classes"], colours["image"]) == (len(CLASSES), [SIDE, SIDE, 3])
        assert colours["latency_ms"] == {"1": 0.1, "8": 0.2}
        assert "variants" not in models["plain"]

    serve(tmp_path, scenario)


ADMIN = Admin("socket", explicit=True, memory=True, by_policy=True)
POLICY = """
groups:
  seers: {members: ["key:seer"], rights: [{models: ["points"], actions: [metadata]}]}
  users:
    members: ["key:user"]
    rights: [{models: ["points"], actions: [infer]}]
    limits: {images_per_day: 1}
"""


def test_caller_sees_and_uses_what_the_policy_gives_him(tmp_path: Path) -> None:
    secrets = {client: new_key() for client in ("seer", "user")}
    shown = {client: {"x-api-key": secret} for client, secret in secrets.items()}
    lines = [ApiKey(client, digest_of(secret)).line() for client, secret in secrets.items()]
    keys, policy = tmp_path / "keys", tmp_path / "policy.yaml"
    keys.write_text("\n".join(lines) + "\n")
    policy.write_text(POLICY)

    async def scenario(served: InProcess) -> None:
        assert (await served.rest("GET", MODELS))[0] == 401
        assert (await ask(served, "points", "embed"))[0] == 401
        for client, knows, status in (("seer", True, 403), ("user", False, 200)):
            _, answer = await served.rest("GET", MODELS, headers=shown[client])
            [model] = answer["models"]
            assert (model["name"], "task" in model) == ("points", knows)
            assert (await ask(served, "colours", "classify", headers=shown[client]))[0] == 404
            assert (await ask(served, "points", "embed", headers=shown[client]))[0] == status
        assert (await ask(served, "points", "embed", headers=shown["user"]))[0] == 429

    serve(tmp_path, scenario, access={"api_keys": keys, "policy": policy}, admin=ADMIN)

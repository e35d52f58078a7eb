"""Model repositories behind URLs: a real server process, and a real object store."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.client import VisionClient
from serving.repository.signing.statement import sign_version
from tests.support.object_store import (
    BUCKET,
    ENVIRONMENT,
    SECRET,
    CuttingProxy,
    files,
    object_store,
    upload,
)
from tests.support.process import ServerProcess
from tests.support.published import publish
from tests.support.signed import Signer


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The endpoint of an S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with object_store() as endpoint:
            yield endpoint


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a repository that no other test has."""
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def proxy(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    """Stands before the store, for servers."""
    running = CuttingProxy(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
    yield running
    running.close()


@pytest.fixture
def servers() -> Iterator[list[ServerProcess]]:
    """Those that a test has started; they end with it."""
    running: list[ServerProcess] = []
    yield running
    for server in running:
        server.kill()


def score_of_red(server: ServerProcess) -> float:
    """Tells the gains of two versions apart."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 100
    with VisionClient(server.url) as client:
        return client.classify("colours", red).results[0].labels[0].score


def test_a_store_is_followed_and_what_came_whole_outlives_it(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    local, cache = tmp_path / "models", tmp_path / "cache"
    publish(local, gain=10.0)
    upload(store, local, tmp_path.name)
    flags = ("--model-control", "poll", "--poll-seconds", "0.2", "--engine", "onnxruntime")
    flags += ("--strict-readiness",)
    server = _serve(url, cache, *flags)
    servers.append(server)
    server.wait_ready()
    first = score_of_red(server)
    second = publish(tmp_path / "next", version=2, gain=30.0)
    shutil.copytree(second, local / "colours" / "2")
    (local / "colours" / "2" / "model.onnx").write_bytes(b"half of it")
    upload(store, local, tmp_path.name)
    line = server.wait_for_log("model not loaded", model="colours")
    assert line["reason"].startswith(f"{url}/colours/2/model.onnx: sha256 is ")
    assert score_of_red(server) == first
    assert server.get(f"{server.http}/readyz")[0] == 200
    assert "colours: UNAVAILABLE" in text(server)
    shutil.copy(second / "model.onnx", local / "colours" / "2")
    upload(store, local, tmp_path.name)
    server.wait_for_log("model ready", version="2")
    assert score_of_red(server) > first
    labels = f'{{repository="{url}"}}'
    assert server.metric(f"convserve_repository_fetched_bytes_total{labels}") > 1000
    assert server.metric(f"convserve_repository_fetch_failures_total{labels}") >= 1
    assert server.metric(f"convserve_repository_listing_age_seconds{labels}") < 60
    proxy.cut_after = 0
    server.wait_for_log("repository cannot be fetched; what is in the cache is served")
    assert score_of_red(server) > first
    assert server.terminate() == 0

    again = _serve(url, cache, *flags)
    servers.append(again)
    again.wait_ready()
    assert score_of_red(again) > first
    again.wait_for_log("repository cannot be fetched; what is in the cache is served")
    assert again.terminate() == 0
    assert SECRET not in json.dumps(server.log + again.log)


def test_versions_of_a_store_serve_once_a_trusted_key_has_signed_them(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    local, signer = tmp_path / "models", Signer()
    folder = publish(local)
    upload(store, local, tmp_path.name)
    _, keys = signer.write(tmp_path, "team")
    flags = ("--model-control", "poll", "--poll-seconds", "0.2", "--engine", "onnxruntime")
    server = _serve(url, tmp_path / "cache", *flags, "--require-signature", str(keys))
    servers.append(server)
    line = server.wait_for_log("model not loaded", model="colours")
    assert line["reason"].endswith("colours/1: no signature.json: nobody has signed it")
    sign_version(folder, signer.private)
    upload(store, local, tmp_path.name)
    assert server.wait_for_log("model ready", model="colours")["signed_by"] == [signer.id]
    first = score_of_red(server)
    forged = publish(tmp_path / "forged", gain=30.0)
    for name in ("model.onnx", "manifest.json", "samples.npz"):
        shutil.copy(forged / name, folder)
    upload(store, local, tmp_path.name)
    refusal = 'convserve_signature_refusals_total{model="colours",version="1"}'
    while server.metric(refusal) < 2:
        time.sleep(0.02)  # between two looks at a condition that no event tells of
    assert score_of_red(server) == first


def _serve(repository: str, cache: Path, *flags: str) -> ServerProcess:
    return ServerProcess(repository, *flags, cache=cache)


def test_load_calls_fetch_and_name_what_is_wrong(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    local = tmp_path / "models"
    publish(local)
    publish(local, "broken", gain=20.0)
    upload(store, local, tmp_path.name)
    files(store).pipe_file(f"{url}/broken/1/model.onnx", b"half")
    flags = ("--model-control", "explicit", "--admin", "open", "--engine-process")
    server = _serve(url, tmp_path / "cache", *flags)
    servers.append(server)
    with triton.InferenceServerClient(server.url) as client:
        index: set[tuple[str, str]] = set()
        while index != {("colours", ""), ("broken", "")}:  # a listing may come in parts
            time.sleep(0.02)  # between two looks at a condition that no event tells of
            models = client.get_model_repository_index(as_json=True).get("models", [])
            index = {(model["name"], model.get("state", "")) for model in models}
        client.load_model("colours")
        assert client.is_model_ready("colours")
        with pytest.raises(InferenceServerException, match=r"broken/1/model\.onnx: sha256 is"):
            client.load_model("broken")
        with pytest.raises(InferenceServerException, match="no folder 'absent'"):
            client.load_model("absent")
        client.load_model("colours", config=json.dumps({"max_batch_size": 2}))
        config = client.get_model_config("colours", as_json=True)["config"]
        assert config["max_batch_size"] == 2


def text(server: ServerProcess) -> str:
    return server.get(f"{server.http}/readyz")[1]


def test_a_start_without_store_and_cache_says_why_and_goes_on_when_it_is_there(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    local, other = tmp_path / "models", tmp_path / "other"
    publish(local)
    publish(local, "twice")
    publish(other, "twice")
    publish(other, "alone")
    upload(store, local, tmp_path.name)
    proxy.cut_after = 0
    server = _serve(
        url, tmp_path / "cache", "--model-repository", str(other), "--poll-seconds", "0.2"
    )
    servers.append(server)
    server.wait_for_log("model ready", model="alone")
    while f"{url}: UNAVAILABLE {url}: after 4 tries: " not in text(server):
        time.sleep(0.02)  # between two looks at a condition that no event tells of
    proxy.cut_after = None
    server.wait_for_log("model ready", model="colours")
    line = server.wait_for_log("model not loaded", model="twice")
    assert line["reason"] == f"twice: lies in two repositories: {url}/twice and {other}/twice"
    with triton.InferenceServerClient(server.url) as client:
        assert client.is_model_ready("colours")
        assert client.is_model_ready("alone")


def test_a_store_that_hangs_holds_up_nothing_that_is_here(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    publish(tmp_path / "models")
    publish(tmp_path / "other", "alone")
    upload(store, tmp_path / "models", tmp_path.name)
    proxy.stalled = True
    flags = ("--model-repository", str(tmp_path / "other"), "--repository-timeout-seconds", "1")
    server = _serve(url, tmp_path / "cache", *flags)
    servers.append(server)
    assert proxy.asked.wait(60)
    server.wait_for_log("model ready", model="alone")
    with triton.InferenceServerClient(server.url) as client:
        assert client.is_model_ready("alone")
    assert server.get(f"{server.http}/readyz")[0] == 503
    assert f"{url}: LOADING its models are being fetched" in text(server)
    proxy.answer()
    server.wait_for_log("model ready", model="colours")
    server.wait_ready()
    assert url not in text(server)


def test_a_server_ends_in_the_middle_of_a_fetch(
    store: str, proxy: CuttingProxy, servers: list[ServerProcess], url: str, tmp_path: Path
) -> None:
    publish(tmp_path / "models")
    upload(store, tmp_path / "models", tmp_path.name)
    proxy.stalled = True
    server = _serve(url, tmp_path / "cache", "--drain-seconds", "1")
    servers.append(server)
    assert proxy.asked.wait(60)
    assert server.terminate() == 0

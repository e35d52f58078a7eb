"""A real server that tells callers apart: unmodified clients, changes under load, and its log."""

import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from typer import Typer
from typer.testing import CliRunner, Result

from loadtest import cli as loadtest
from serving.cli import models, predict
from serving.client import CallFailed, VisionClient
from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.support.certified import SPIFFE, Certified
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.pictures import encoded
from tests.support.process import ServerProcess
from tests.support.published import samples

StartServer = Callable[..., ServerProcess]
CLINIC, OPS = new_key(), new_key()
POLICY = """
groups:
  clinics:
    members: [key:clinic, jwt:alice]
    rights: [{models: [colours], actions: [infer, metadata]}]
  operators:
    members: [key:ops]
    rights: [{models: ["*"], actions: [metadata, statistics, settings, metrics]}]
"""


class Site:
    """A server with an issuer, keys and a policy, each in a file."""

    def __init__(self, folder: Path, repository: Path, cache: Path) -> None:
        self.issuer = Issuer()
        self.keys, self.policy = folder / "keys", folder / "policy.yaml"
        self.jwks = folder / "jwks.json"
        self.write_keys(("clinic", CLINIC), ("ops", OPS))
        self.policy.write_text(POLICY)
        self.publish()
        self.server = ServerProcess(
            repository,
            *("--api-keys", str(self.keys), "--policy", str(self.policy)),
            *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-jwks", str(self.jwks)),
            *("--audit-sample", "1", "--slow-request-ms", "0.001"),
            cache=cache,
        ).wait_ready()

    def write_keys(self, *keys: tuple[str, str]) -> None:
        lines = [ApiKey(client, digest_of(secret)).line() + "\n" for client, secret in keys]
        self._replace(self.keys, "".join(lines))

    def publish(self) -> None:
        self._replace(self.jwks, json.dumps(self.issuer.key_set()))

    def _replace(self, file: Path, text: str) -> None:
        new = file.with_suffix(".new")
        new.write_text(text)
        new.replace(file)

    def wait_for_lines(self, message: str, number: int, **fields: str) -> None:
        """Returns when the log has so many lines."""
        end = time.monotonic() + 20
        while True:
            found = [
                line
                for line in self.server.log
                if line.get("message") == message and fields.items() <= line.items()
            ]
            if len(found) >= number:
                return
            assert time.monotonic() < end, self.server.log
            time.sleep(0.01)  # the process does not tell


@pytest.fixture(scope="module")
def site(
    wire: str, colours: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), colours, cache)
    yield made
    made.server.kill()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def infer(client: Any, library: Any, headers: dict[str, str], model: str = "colours") -> Any:
    tensor = library.InferInput("image", [6, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(samples())
    return client.infer(model, [tensor], headers=headers).as_numpy("logits")


def get(
    url: str, headers: dict[str, str], context: ssl.SSLContext | None = None
) -> tuple[int, str]:
    asked = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(asked, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_tritonclient_shows_who_it_is_by_its_headers(site: Site) -> None:
    key = {"x-api-key": CLINIC}
    token = bearer(site.issuer.token("alice"))
    with triton.InferenceServerClient(site.server.url) as rpc:
        for shown in (key, token):
            assert infer(rpc, triton, shown).shape == (6, 3)
            assert [m.name for m in rpc.get_model_repository_index(headers=shown).models] == [
                "colours"
            ]
        assert rpc.is_server_ready()
        for wrong, expected in (
            ({}, "UNAUTHENTICATED"),
            ({"x-api-key": "wrong"}, "UNAUTHENTICATED"),
            (bearer(site.issuer.token("eve")), "NOT_FOUND"),
            ({"x-api-key": OPS}, "PERMISSION_DENIED"),
        ):
            with pytest.raises(InferenceServerException) as failure:
                infer(rpc, triton, wrong)
            assert failure.value.status() == f"StatusCode.{expected}"
    with triton_http.InferenceServerClient(site.server.http.removeprefix("http://")) as rest:
        for shown in (key, token):
            assert np.all(infer(rest, triton_http, shown) == infer(rest, triton_http, shown))
        for wrong, status in (
            ({}, "401"),
            ({"x-api-key": "w"}, "401"),
            ({"x-api-key": OPS}, "403"),
        ):
            with pytest.raises(InferenceServerException) as failure:
                infer(rest, triton_http, wrong)
            assert failure.value.status() == status


def test_our_client_shows_who_it_is_with_every_call_and_stream(site: Site) -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    headers = {"x-api-key": CLINIC}
    with VisionClient(site.server.url, headers=headers) as client:
        client.classify("colours", images[0])
        assert all(
            not isinstance(answer, CallFailed)
            for _, answer in client.classify_many("colours", images)
        )
        headers["x-api-key"] = "wrong"
        with pytest.raises(CallFailed) as failure:
            client.classify("colours", images[0])
        assert failure.value.code == "UNAUTHENTICATED"
    with VisionClient(site.server.url) as client:
        [(_, answer)] = client.classify_many("colours", images[:1])
        assert isinstance(answer, CallFailed)
        assert answer.code == "UNAUTHENTICATED"


def test_commands_show_who_calls_by_what_is_in_a_file(site: Site, tmp_path: Path) -> None:
    picture, key, token = (tmp_path / name for name in ("red.png", "key", "token"))
    picture.write_bytes(encoded(samples()[0], "PNG"))
    key.write_text(CLINIC + "\n")
    token.write_text(site.issuer.token("alice"))
    at = ["--url", site.server.url]
    asked = ["predict", str(picture), "--model", "colours", *at]

    def said(app: Typer, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words)
        return done.exit_code, done.output

    assert said(predict.app, *asked, "--api-key-file", str(key))[0] == 0
    assert said(predict.app, *asked, "--token-file", str(token))[0] == 0
    assert "colours" in said(models.app, "models", *at, "--api-key-file", str(key))[1]
    assert "UNAUTHENTICATED" in said(predict.app, *asked)[1]
    key.write_text("two words")
    code, text = said(predict.app, *asked, "--api-key-file", str(key))
    assert (code, "expected one word, got 2" in text, "two words" in text) == (2, True, False)


@pytest.mark.parametrize("wire", ["native"], indirect=True, scope="module")
def test_load_tester_says_who_calls_over_every_wire(site: Site, tmp_path: Path) -> None:
    key, token = tmp_path / "key", tmp_path / "token"
    key.write_text(CLINIC + "\n")
    token.write_text(site.issuer.token("alice"))

    def said(*words: str) -> Result:
        load = ("--model", "colours", "--requests", "20", "--warmup", "0s", "--fail-if", "errors>0")
        return CliRunner().invoke(loadtest.app, ["loadtest", "run", *load, *words])

    for words in (
        ("--url", site.server.url, "--api-key-file", str(key)),
        ("--url", site.server.url, "--streams", "2", "--api-key-file", str(key)),
        ("--url", site.server.http, "--token-file", str(token)),
    ):
        done = said(*words, "--output", str(tmp_path / "raw.npz"), "--json")
        assert done.exit_code == 0, done.output
        assert CLINIC not in done.output
        assert CLINIC.encode() not in (tmp_path / "raw.npz").read_bytes()
    assert "the call does not say who makes it" in said("--url", site.server.url).output
    # The key has no right to the metrics.
    refused = said("--url", site.server.url, "--metrics-url", site.server.metrics_url,
                   "--api-key-file", str(key))  # fmt: skip
    assert "403" in refused.output
    searched = CliRunner().invoke(
        loadtest.app,
        ["loadtest", "search", "--url", site.server.url, "--model", "colours", "--p99", "5s",
         "--start", "20", "--highest", "20", "--duration", "0.3s", "--warmup", "0s",
         "--api-key-file", str(key)],
    )  # fmt: skip
    assert searched.exit_code == 0, searched.output


def test_client_certificate_is_a_name_for_the_policy(
    wire: str, colours: Path, cache: Path, tmp_path: Path
) -> None:
    made = Certified(tmp_path / "tls")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        POLICY.replace("key:clinic", '"cert:URI:spiffe://example.org/ns/vision/*"').replace(
            "key:ops", "cert:DNS:elsewhere.example"
        )
    )
    flags = made.mutual("--policy", str(policy), "--audit-sample", "1")
    context = made.tls.context()
    server = ServerProcess(colours, *flags, cache=cache, context=context).wait_ready()
    try:
        # The certificate comes first: what else he shows is not looked at.
        with VisionClient(server.url, tls=made.tls, headers={"x-api-key": "wrong"}) as client:
            image = np.zeros((8, 8, 3), np.uint8)
            client.classify("colours", image)
            with pytest.raises(CallFailed) as failure:
                client.embed("points", image)
            assert failure.value.code == "NOT_FOUND"
        for model, expected in (("colours", 200), ("points", 404)):
            assert get(f"{server.http}/v2/models/{model}", {}, context)[0] == expected
    finally:
        server.terminate()
    names = {line.get("who") for line in server.log if line.get("logger") == "audit"}
    assert names == {f"cert:URI:{SPIFFE}"}


def test_metrics_are_a_right_of_their_own_and_show_what_one_may_see(site: Site) -> None:
    url = site.server.metrics_url
    assert get(url, {})[0] == 401
    assert get(url, {"x-api-key": CLINIC})[0] == 403
    status, text = get(url, {"x-api-key": OPS})
    assert status == 200
    assert 'model="points"' in text
    site.policy.write_text(POLICY.replace("[infer, metadata]", "[infer, metadata, metrics]"))
    while (status := get(url, {"x-api-key": CLINIC})[0]) != 200:
        assert status == 403
        time.sleep(0.05)  # until the file was looked at
    _, text = get(url, {"x-api-key": CLINIC})
    assert 'model="colours"' in text
    for hidden in ('model="points"', 'model="regions"', 'caller="key:ops"'):
        assert hidden not in text
    assert get(url.replace("/metrics", "/readyz"), {})[0] == 200


def test_keys_tokens_and_policy_change_under_load_without_a_failed_call(site: Site) -> None:
    shown = [{"x-api-key": CLINIC}, bearer(site.issuer.token("alice"))]
    stop, failures, answered = threading.Event(), list[str](), [0, 0]

    def call(number: int) -> None:
        with triton.InferenceServerClient(site.server.url) as client:
            while not stop.is_set():
                try:
                    infer(client, triton, shown[number])
                    answered[number] += 1
                except InferenceServerException as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=call, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    read = {"flag": "--api-keys"}
    before = sum(line.get("message") == "file read again" and line.get("flag") == "--api-keys"
                 for line in site.server.log)  # fmt: skip
    second = new_key()
    # The new beside the old, the callers change over, the old goes.
    site.write_keys(("clinic", CLINIC), ("clinic", second), ("ops", OPS))
    site.wait_for_lines("file read again", before + 1, **read)
    site.issuer.add("second")
    site.publish()
    site.wait_for_lines("keys of tokens read", 2)
    shown[:] = [{"x-api-key": second}, bearer(site.issuer.token("alice", "second"))]
    site.policy.write_text(POLICY + "# again\n")
    old = site.issuer.token("alice", "first")
    seen = list(answered)
    while any(now < then + 3 for now, then in zip(answered, seen, strict=True)):
        time.sleep(0.005)  # until every call of before has ended
    site.write_keys(("clinic", second), ("ops", OPS))
    site.wait_for_lines("file read again", before + 2, **read)
    site.issuer.published.remove("first")
    site.publish()
    site.wait_for_lines("keys of tokens read", 3)
    seen = list(answered)
    while any(now < then + 3 for now, then in zip(answered, seen, strict=True)):
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    with triton.InferenceServerClient(site.server.url) as client:
        for withdrawn in ({"x-api-key": CLINIC}, bearer(old)):
            with pytest.raises(InferenceServerException, match="not accepted"):
                infer(client, triton, withdrawn)
    site.write_keys(("clinic", CLINIC), ("ops", OPS))
    site.wait_for_lines("file read again", before + 3, **read)


def test_record_is_silenced_by_no_setting_and_no_line_has_a_credential(site: Site) -> None:
    """The last one: it reads all that the server has ever written."""
    key = {"x-api-key": OPS}
    silent = {"log_info": False, "log_warning": False, "log_error": False, "log_verbose_level": 1}
    token = site.issuer.token("alice", "second" if "second" in site.issuer.published else "first")
    with triton.InferenceServerClient(site.server.url) as client:
        client.update_log_settings(silent, headers=key)
        for shown in ({"x-api-key": "wrong-wrong-wrong"}, {"x-api-key": CLINIC}, bearer(token)):
            with pytest.raises(InferenceServerException):
                client.update_log_settings({"log_info": True}, headers=shown)
        infer(client, triton, {"x-api-key": CLINIC})
    assert get(f"{site.server.http}/v2/logging", {"x-api-key": "second-wrong-key"})[0] == 401
    for _ in range(3):
        # Also what the wire itself refuses.
        with (
            pytest.raises(InferenceServerException),
            triton.InferenceServerClient(site.server.url) as client,
        ):
            infer(client, triton, {"x-api-key": CLINIC + "x" * 20_000})
    site.server.terminate()
    record = [line for line in site.server.log if line.get("logger") == "audit"]
    told = {(line.get("who"), line["method"], line["decision"], line["code"]) for line in record}
    assert {
        ("key:ops", "LogSettings", "allowed", "OK"),
        ("key:clinic", "LogSettings", "refused", "PERMISSION_DENIED"),
        ("jwt:alice", "LogSettings", "refused", "PERMISSION_DENIED"),
        (None, "LogSettings", "refused", "UNAUTHENTICATED"),
        ("key:clinic", "ModelInfer", "allowed", "OK"),
    } <= told
    assert all(line["address"] == "127.0.0.1" for line in record)
    whole = json.dumps(site.server.log)
    assert "slow call" in whole
    for secret in (CLINIC, OPS, token, "wrong-wrong-wrong", "second-wrong-key"):
        assert secret not in whole

"""A stranger, and a caller with few rights, at a server that tells callers apart: none of the ways
around the door leads in, and the server is healthy afterwards."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos.gen import grpc_service_pb2 as pb
from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.support.identity import publish_identity
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, issuing
from tests.support.process import ServerProcess
from tests.support.raw_http import ask, connected, error_of, status_of
from tests.support.raw_http2 import HEAD, RawClient, message

KEY, OPERATOR = new_key(), new_key()
POLICY = """
groups:
  clinics:
    members: [key:clinic, "jwt:*"]
    rights: [{models: ["xray-*"], actions: [infer, metadata]}]
  operators:
    members: [key:operator]
    rights: [{models: ["*"], actions: [infer, metadata, statistics, metrics, debug]}]
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as made:
        yield made


@pytest.fixture(scope="module")
def served(
    wire: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("access")
    keys, policy = folder / "keys", folder / "policy.yaml"
    owners = (("clinic", KEY), ("operator", OPERATOR))
    keys.write_text("".join(ApiKey(who, digest_of(key)).line() + "\n" for who, key in owners))
    policy.write_text(POLICY)
    for name in ("xray-1", "secret"):
        publish_identity(folder / "models", name, ["UINT8"])
    flags = ["--allow-ungated", "--strict-readiness", f"--api-keys={keys}", f"--policy={policy}"]
    flags += [f"--jwt-issuer={ISSUER}", f"--jwt-audience={AUDIENCE}", f"--jwt-jwks={issuer.url}"]
    server = ServerProcess(folder / "models", *flags, cache=cache).wait_ready()
    yield server
    server.kill()


@pytest.fixture
def caller(served: ServerProcess) -> Iterator[socket.socket]:
    with connected(served.http) as connection:
        yield connection


@pytest.fixture(autouse=True)
def healthy_afterwards(served: ServerProcess) -> Iterator[None]:
    """No line of the log is an error, and the next caller is answered."""
    yield
    with connected(served.http) as connection:
        assert status_of(ask(connection, request("/v2/models/xray-1", KEY))) == 200
    assert [line for line in served.log if line.get("level") == "error"] == []


def request(path: str, key: str = "", headers: str = "", method: str = "GET") -> bytes:
    shown = f"x-api-key: {key}\r\n" if key else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{shown}{headers}\r\n".encode()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/secret", "//v2/models/secret", "/v2//models/secret", "/v2/models//secret",
        "/v2/models/xray-1/../secret", "/v2/models/xray-1/%2e%2e/secret",
        "/v2/models/xray-1%2f..%2fsecret", "/v2/models/%2e%2e/secret", "/v2/models/secret%00",
        "/v2/models/%73ecret", "/v2/models/%2573ecret", "/v2/models/secret;xray-1",
        "/v2/models/secret?model=xray-1", "/v2/models/secret/versions/1", "/v2/models/Secret",
        "/v2/models/secret/stats", "/v2/models/secret/config", "/v2/models/secret/trace/setting",
        "/v2/./models/secret", "http://localhost/v2/models/secret", "/V2/models/secret",
        "/v2/models/secret/", "/v2/models/%EF%BD%93ecret", "/v2/models/xray-1%0d%0ax: y",
        "/debug/batches", "/v2/models/secret/ready",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_shows_what_is_hidden(caller: socket.socket, path: str) -> None:
    answer = ask(caller, request(path, KEY))
    assert status_of(answer) in (400, 403, 404), answer
    assert b"in_UINT8" not in answer


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL"])
def test_no_header_stands_for_method_or_path(caller: socket.socket, header: str) -> None:
    value = "DELETE" if "Method" in header else "/v2/models/secret"
    answer = ask(caller, request("/v2/models/xray-1", KEY, f"{header}: {value}\r\n"))
    assert (status_of(answer), b'"xray-1"' in answer) == (200, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 401),
        ("X-API-KEY: {key}\r\n", 200),
        ("x-api-key:{key}\t\r\n", 200),
        ("x-api-key: {key}\r\nx-api-key: {key}\r\n", 401),
        ("x-api-key: \r\nx-api-key: {key}\r\n", 401),
        ("x-api-key: {key},{key}\r\n", 401),
        ("x-api-key: {key} \r\nx-api-key: wrong\r\n", 401),
        ("x-api-key : {key}\r\n", 400),
        ("x-api-key: wrong\r\n {key}\r\n", 400),
        ("Cookie: x-api-key={key}\r\n", 401),
        ("Authorization: Bearer {key}\r\n", 401),
        ("Authorization: Bearer {token}\r\n", 200),
        ("authorization: bearer   {token}\r\n", 200),
        ("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n", 401),
        ("Authorization: Bearer {token}\r\nx-api-key: wrong\r\n", 200),
        ("Authorization: Bearer x\r\nx-api-key: {key}\r\n", 401),
        ("Authorization: Basic {token}\r\n", 401),
        ("Proxy-Authorization: Bearer {token}\r\n", 401),
        ("X-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\n", 401),
        ("X-Forwarded-Client-Cert: Subject=\"CN=clinic\"\r\n", 401),
    ],
)  # fmt: skip
def test_credentials_count_in_their_place_alone(
    caller: socket.socket, issuer: Issuer, headers: str, status: int
) -> None:
    shown = headers.format(key=KEY, token=issuer.token())
    answer = ask(caller, request(f"/v2/models/xray-1?x-api-key={KEY}", headers=shown))
    assert status_of(answer) == status, answer


INNER = request("/v2/models/xray-1", KEY)
LENGTH, CHUNKED = f"Content-Length: {len(INNER)}\r\n", "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (LENGTH + CHUNKED, b"0\r\n\r\n" + INNER),
        (CHUNKED + LENGTH, b"0\r\n\r\n" + INNER),
        ("Content-Length: 0\r\n" + LENGTH, INNER),
        ("Content-Length: 0, 0\r\n", INNER),
        ("Content-Length: +0\r\n", INNER),
        ("Content-Length: 0x0\r\n", INNER),
        ("Content-Length: -0\r\n", INNER),
        ("Content-Length : 0\r\n", INNER),
        ("Transfer-Encoding : chunked\r\n" + LENGTH, INNER),
        ("Transfer-Encoding: xchunked\r\n" + LENGTH, INNER),
        ("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + INNER),
        ("Transfer-Encoding: identity\r\n", INNER),
        ("Transfer-Encoding:\x0bchunked\r\n" + LENGTH, INNER),
        ("Transfer-Encoding:\r\n chunked\r\n" + LENGTH, INNER),
        (CHUNKED + CHUNKED + LENGTH, b"0\r\n\r\n" + INNER),
        ("A: b\nTransfer-Encoding: chunked\r\n" + LENGTH, INNER),
        ("A: b\rContent-Length: 0\r\n" + LENGTH, INNER),
        (CHUNKED, b"0x0\r\n\r\n" + INNER),
        (CHUNKED, b"-0\r\n\r\n" + INNER),
        (CHUNKED, b"0\n\n" + INNER),
        (CHUNKED, b"1\r\naXX0\r\n\r\n" + INNER),
        (CHUNKED, b"10000000000000000\r\n\r\n" + INNER),
        (CHUNKED, b"0;a=\n\r\n\r\n" + INNER),
    ],
)  # fmt: skip
def test_no_request_is_smuggled_in_the_body_of_another(
    served: ServerProcess, headers: str, body: bytes
) -> None:
    """A proxy in front may count such a body otherwise, and send what we took for a request of one
    caller as the rest of another's."""
    with connected(served.http) as connection:
        connection.sendall(request("/v2/repository/index", "", headers, "POST") + body)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        assert b"in_UINT8" not in answer
        assert len(re.findall(rb"HTTP/1\.[01] \d", answer)) == 1
        assert status_of(answer) in (400, 401, 501)


def test_trailers_of_a_body_are_no_headers(caller: socket.socket) -> None:
    body = b"2\r\n{}\r\n0\r\nx-api-key: " + KEY.encode() + b"\r\n\r\n"
    answer = ask(caller, request("/v2/repository/index", "", CHUNKED, "POST") + body)
    assert status_of(answer) == 401


def test_an_upgrade_leads_to_no_other_protocol(served: ServerProcess) -> None:
    headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connected(served.http) as caller:
        assert status_of(ask(caller, request("/v2/models/xray-1", "", headers))) == 401


def test_metrics_and_batches_need_a_right(served: ServerProcess, issuer: Issuer) -> None:
    with connected(served.metrics_url) as caller:
        for key, status in (("", 401), ("wrong", 401), (KEY, 403), (OPERATOR, 200)):
            answer = ask(caller, request("/metrics", key))
            assert status_of(answer) == status
            assert (b"secret" in answer) == (key == OPERATOR)
        for path in ("/livez", "/readyz"):
            assert status_of(ask(caller, request(path))) == 200
        for path in ("/", "/debug/batches", "/v2/models/secret", "/metrics/", "/%6detrics"):
            assert status_of(ask(caller, request(path, OPERATOR))) in (404, 200), path
            assert status_of(ask(caller, request(path))) in (404, 401), path


def test_what_a_caller_says_cannot_write_lines_of_the_log(
    served: ServerProcess, issuer: Issuer
) -> None:
    evil = 'x\\n{"logger": "audit", "decision": "allowed"}\u2028\u202e'
    token = issuer.token(evil.replace("\\n", ""))  # printable but for the marks: not taken
    body = json.dumps({"id": evil, "inputs": []}).encode()
    head = request("/v2/models/secret/infer", KEY, f"Content-Length: {len(body)}\r\n", "POST")
    # An address of its own: of one that is refused often, not every line is written.
    with connected(served.http, source="127.0.0.9") as caller:
        assert status_of(ask(caller, head + body)) == 404
        shown = f"Authorization: Bearer {token}\r\n"
        assert status_of(ask(caller, request("/v2", headers=shown))) == 401
    line = served.wait_for_log("call", method="RestInfer", address="127.0.0.9")
    assert line["who"] == "key:clinic"
    assert [line for line in served.log if line.get("decision") == "allowed"] == []


# gRPC.

METADATA = b"/inference.GRPCInferenceService/ModelMetadata"


def call(
    served: ServerProcess,
    *shown: tuple[bytes, bytes],
    path: bytes = METADATA,
    kind: bytes = b"application/grpc",
    trailers: tuple[tuple[bytes, bytes], ...] = (),
) -> int:
    """Status of a call for the metadata of xray-1; -1 where it is no call of gRPC."""
    data = message(pb.ModelMetadataRequest(name="xray-1").SerializeToString())
    head = {**dict(HEAD), b":path": path, b"content-type": kind, b"te": b"trailers"}
    with RawClient(int(served.url.rpartition(":")[2])) as client:
        stream = client._h2.send_request((*head.items(), *shown))
        client._h2.send_data(stream, data, end_stream=not trailers)
        if trailers:
            client._h2.send_trailers(stream, trailers)
        client.flush()
        return client.status(stream)[0]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ([], 16),
        ([(b"x-api-key", KEY.encode())], 0),
        ([(b"x-api-key", KEY.encode())] * 2, 16),
        ([(b"x-api-key", b""), (b"x-api-key", KEY.encode())], 16),
        ([(b"authorization", b"Bearer x"), (b"x-api-key", KEY.encode())], 16),
        ([(b"authorization", b"Bearer " + b"x" * 12_000)], 16),
    ],
)
def test_metadata_counts_in_its_place_alone(
    served: ServerProcess, more: list[tuple[bytes, bytes]], code: int
) -> None:
    assert call(served, *more) == code


def test_a_path_of_grpc_has_one_spelling(served: ServerProcess) -> None:
    for path in (b"/" + METADATA, METADATA + b"/", METADATA.replace(b"Meta", b"%4deta"),
                 METADATA.lower(), b"/x/.." + METADATA, METADATA + b"?a"):  # fmt: skip
        assert call(served, (b"x-api-key", KEY.encode()), path=path) in (12, -1), path


def test_trailers_of_a_call_are_no_metadata(served: ServerProcess) -> None:
    assert call(served, trailers=((b"x-api-key", KEY.encode()),)) == 16


def test_another_type_of_content_is_no_way_in(served: ServerProcess) -> None:
    for kind in (b"application/grpc-web+proto", b"application/json", b"text/plain"):
        assert call(served, kind=kind) in (-1, 16)


def test_long_names_of_models_stay_in_no_memory(served: ServerProcess, issuer: Issuer) -> None:
    """Each may have the whole of a control call; there are as many as a caller likes."""

    def resident() -> int:
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) >> 10

    def asked(count: int) -> None:
        for number in range(count):
            name = f"xray-{number:06}" + "x" * 900_000
            with pytest.raises(grpc.RpcError) as failure:
                metadata(pb.ModelMetadataRequest(name=name).SerializeToString(), metadata=shown)
            assert failure.value.code() is grpc.StatusCode.NOT_FOUND

    with grpc.insecure_channel(served.url) as channel:
        metadata = channel.unary_unary(METADATA.decode())
        shown = (("authorization", f"Bearer {issuer.token('bob')}"),)
        asked(20)
        before = resident()
        asked(120)
        assert resident() < before + 60


def test_secrets_are_asked_for_in_vain_over_every_error(served: ServerProcess) -> None:
    """The texts of refusals tell no name that the caller may not see."""
    with connected(served.http) as caller:
        for path in ("/v2/models/none", "/v2/models/secret", "/v2/models/xray-1/versions/7"):
            answer = ask(caller, request(path, KEY))
            assert status_of(answer) == 404
            assert "'secret'" not in error_of(answer).replace("no model 'secret'", "")


@pytest.mark.parametrize(
    "shown", [(), ((b"x-api-key", b"wrong"),), ((b"authorization", b"Bearer x"),)]
)
def test_message_of_a_stranger_is_not_waited_for(
    served: ServerProcess, shown: tuple[tuple[bytes, bytes], ...]
) -> None:
    """He could announce 32 MiB with each call, and hold the memory of all others."""
    methods = ("ModelInfer", "ModelMetadata", "RepositoryModelLoad", "ModelStreamInfer")
    with RawClient(int(served.url.rpartition(":")[2])) as client:
        for name in methods:
            path = METADATA.replace(b"ModelMetadata", name.encode())
            head = {**dict(HEAD), b":path": path, b"te": b"trailers"}
            stream = client._h2.send_request((*head.items(), *shown))
            client._h2.send_data(stream, b"\0" + (30 << 20).to_bytes(4, "big") + bytes(1000))
            client.flush()
            assert client.status(stream)[0] == 16, name
    with connected(served.metrics_url) as caller:
        answer = ask(caller, request("/metrics", OPERATOR))
    assert b'convserve_memory_held_bytes{use="message"} 0.0' in answer


def test_question_that_everybody_may_ask_is_short(served: ServerProcess, wire: str) -> None:
    if wire == "grpcio":
        pytest.skip("its library receives a message before it is asked")
    for path in ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
                 "/inference.GRPCInferenceService/ServerLive",
                 "/inference.GRPCInferenceService/ModelReady",
                 "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):  # fmt: skip
        with RawClient(int(served.url.rpartition(":")[2])) as client:
            stream = client._h2.send_request(tuple({**dict(HEAD), b":path": path.encode()}.items()))
            client._h2.send_data(stream, b"\0" + (1 << 20).to_bytes(4, "big"))
            client.flush()
            code, text = client.status(stream)
            assert (code, "expected at most 65536 bytes" in text) == (8, True), path

"""TLS on every port of a real server, with every client."""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from typer.testing import CliRunner, Result

import loadtest.cli
from serving.cli import evaluate, models, predict
from serving.client import CallFailed, ClientTls, VisionClient
from tests.support.certified import Certified
from tests.support.process import ServerProcess

APPS = {
    "evaluate": evaluate.app,
    "loadtest": loadtest.cli.app,
    "models": models.app,
    "predict": predict.app,
}
# Of tests in which no wire of gRPC plays a part, or either does.
once = pytest.mark.parametrize("wire", ["native"], indirect=True, scope="module")
RED = np.full((8, 8, 3), (250, 10, 10), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(wire: str, made: Certified, colours: Path, cache: Path) -> Iterator[ServerProcess]:
    """Callers need a certificate."""
    flags = made.mutual("--http-head-seconds", "1")
    running = ServerProcess(colours, *flags, cache=cache, context=made.tls.context())
    yield running.wait_ready()
    running.kill()
    tracebacks = [line for line in running.log if "traceback" in line]
    assert tracebacks == []


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "red.png"
    Image.fromarray(RED).save(file)
    return file


def options(tls: ClientTls) -> list[str]:
    found = ["--tls-ca", str(tls.ca)]
    if tls.cert:
        found += ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    if tls.server_name:
        found += ["--tls-server-name", tls.server_name]
    return found


def command(name: str, *arguments: str) -> Result:
    """In this process, which is quicker."""
    return CliRunner().invoke(APPS[name], [name, *arguments])


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convserve", *arguments], capture_output=True, text=True, check=False
    )


def best(client: VisionClient) -> str:
    return client.classify("colours", RED).results[0].labels[0].name


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].split("/")[0])


def test_the_python_client_calls_with_its_certificate(
    server: ServerProcess, made: Certified
) -> None:
    for url in (server.url, f"grpcs://{server.url}"):
        with VisionClient(url, tls=made.tls) as client:
            assert best(client) == "red"
            many = list(client.classify_many("colours", [RED] * 20))
            assert len(many) == 20


def test_tritonclient_calls_with_its_own_options(server: ServerProcess, made: Certified) -> None:
    tls = made.tls
    with tritonclient.grpc.InferenceServerClient(
        server.url,
        ssl=True,
        root_certificates=str(tls.ca),
        private_key=str(tls.key),
        certificate_chain=str(tls.cert),
    ) as over_grpc:
        assert over_grpc.is_server_ready()
        assert answer_of(tritonclient.grpc, over_grpc) == 0
    with tritonclient.http.InferenceServerClient(
        server.http.removeprefix("https://"),
        ssl=True,
        ssl_options={"ca_certs": str(tls.ca), "keyfile": str(tls.key), "certfile": str(tls.cert)},
    ) as over_http:
        assert over_http.is_server_ready()
        assert answer_of(tritonclient.http, over_http) == 0


def answer_of(triton: Any, client: Any) -> int:
    given = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    given.set_data_from_numpy(RED[None])
    return int(client.infer("colours", [given]).as_numpy("logits").argmax())


def test_the_commands_call_with_their_options(
    server: ServerProcess, made: Certified, image: Path, tmp_path: Path
) -> None:
    tls = options(made.tls)
    shown = command("predict", str(image), "--model", "colours", "--url", server.url, *tls)
    assert "red" in shown.stdout, shown.stderr
    listed = command("models", "--url", f"grpcs://{server.url}", "--json", *tls)
    assert {line["name"] for line in json.loads(listed.stdout)} == {"colours", "regions", "points"}
    for url in (server.url, server.http):
        run = command(
            "loadtest", "run", "--url", url, "--model", "colours", "--requests", "20",
            "--warmup", "0s", "--metrics-url", server.metrics_url, "--json",
            "--fail-if", "errors>0", *tls,
        )  # fmt: skip
        assert run.exit_code == 0, run.stderr
        assert json.loads(run.stdout)["phases"][0]["server"]["metrics"]["requests"] > 0


@once
def test_evaluate_calls_with_its_options(
    server: ServerProcess, made: Certified, tmp_path: Path
) -> None:
    for name, colour in (("red", (250, 0, 0)), ("green", (0, 250, 0)), ("blue", (0, 0, 250))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / name / "a.png")
    done = command(
        "evaluate", "--model", "colours", "--data", str(tmp_path), "--url", server.url, "--json",
        *options(made.tls),
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr


@once
def test_probes_need_no_certificate_and_metrics_do(server: ServerProcess, made: Certified) -> None:
    def asked(url: str, path: str, tls: ClientTls) -> int:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port_of(url), context=tls.context(), timeout=10
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    for path in ("/livez", "/readyz"):
        assert asked(server.metrics_url, path, made.trusting) == 200
    assert asked(server.metrics_url, "/metrics", made.trusting) == 403
    assert asked(server.metrics_url, "/metrics", made.tls) == 200
    assert asked(server.http, "/v2/health/ready", made.tls) == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        asked(server.http, "/v2/health/ready", made.trusting)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        asked(server.metrics_url, "/livez", made.stranger)


def test_the_admin_sockets_stay_plain(server: ServerProcess) -> None:
    with VisionClient(server.admin) as client:
        assert best(client) == "red"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server.admin_http)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@once
def test_handshakes_that_stall_on_a_rest_port_are_cut_in_the_time_of_a_head(
    server: ServerProcess,
) -> None:
    with contextlib.ExitStack() as opened:
        connections = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port_of(url)), 10))
            for url in (server.http, server.metrics_url)
        ]
        for connection in connections:
            connection.sendall(b"\x16\x03\x01\x02")
        assert [connection.recv(1) for connection in connections] == [b"", b""]


def test_a_flood_of_failed_handshakes_leaves_others_served(
    server: ServerProcess, made: Certified
) -> None:
    addresses = [("127.0.0.1", port_of(url)) for url in (server.url, server.http)]
    with VisionClient(server.url, tls=made.tls) as client:
        for number in range(200):
            with socket.create_connection(addresses[number % 2], 10) as connection:
                connection.sendall((b"\x16\x03\x01\x00\x05hello", bytes(64))[number % 2])
            if number % 20 == 0:
                assert best(client) == "red"
        assert best(client) == "red"
    with VisionClient(server.url, tls=made.tls) as client:
        assert best(client) == "red"


@once
def test_a_rest_caller_without_tls_reads_what_to_do(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", port_of(server.http)), 10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"https://" in answer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: None, "the server speaks TLS on this port: give tls (--tls)"),
        (lambda made: ClientTls(), "signed by nobody who is trusted here"),
        (lambda made: made.other_name(), "is not for elsewhere.example"),
        (lambda made: made.trusting, "the server wants a client certificate"),
        (lambda made: made.stranger, "does not take the client's certificate"),
    ],
    ids=["plain", "authority", "name", "none", "stranger"],
)
def test_what_keeps_a_client_out_is_one_line_that_says_what_to_do(
    server: ServerProcess, made: Certified, change: Callable[[Certified], ClientTls | None],
    says: str,
) -> None:  # fmt: skip
    tls = change(made)
    with VisionClient(server.url, tls=tls) as client, pytest.raises(CallFailed, match=says_(says)):
        best(client)
    given = [] if tls is None else options(tls) if tls.ca else ["--tls"]
    failed = command("models", "--url", server.url, *given)
    assert failed.exit_code == 1
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    url = server.http if tls else server.http.replace("https", "http")
    failed = command("loadtest", "run", "--url", url, "--model", "colours", *given)
    assert failed.exit_code == 1
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def says_(text: str) -> str:
    return text.replace("(", r"\(").replace(")", r"\)")


@once
def test_tls_to_a_server_without_it_is_told(
    wire: str, colours: Path, made: Certified, start_server: Callable[..., ServerProcess]
) -> None:
    plain = start_server(colours)
    says = "does not speak TLS on this port"
    with VisionClient(plain.url, tls=made.tls) as client, pytest.raises(CallFailed, match=says):
        best(client)
    assert "does not speak TLS" in command("models", "--url", plain.url, "--tls").stderr
    failed = command(
        "loadtest", "run", "--url", plain.http.replace("http", "https"), "--model", "colours"
    )
    assert "does not speak TLS" in failed.stderr


@once
def test_a_process_says_one_line_and_the_library_of_grpc_none(
    server: ServerProcess, made: Certified
) -> None:
    failed = process("models", "--url", server.url, *options(made.stranger))
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1


def test_files_that_cannot_be_used_are_told_by_the_commands(image: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    done = command("models", "--url", "127.0.0.1:1", "--tls-ca", str(missing))
    assert done.exit_code == 2
    assert "cannot be read" in " ".join(done.stderr.split())
    done = command("models", "--url", "http://127.0.0.1:1", "--tls")
    assert done.exit_code == 2


def test_certificates_are_renewed_under_load_without_a_failed_call(
    server: ServerProcess, made: Certified
) -> None:
    """Old connections stay, new ones get the new certificate, every call is answered."""
    over = threading.Event()
    counts: list[int] = []
    failures: list[Exception] = []

    def calls(anew: bool) -> None:
        count = 0
        try:
            while not over.is_set():
                with VisionClient(server.url, retries=0, tls=made.tls) as client:
                    while not over.is_set():
                        assert best(client) == "red"
                        count += 1
                        if anew:
                            break
        except Exception as error:
            failures.append(error)
        counts.append(count)

    def rest() -> None:
        context = made.tls.context()
        count = 0
        try:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", port_of(server.http), context=context, timeout=10
            )
            with contextlib.closing(connection):
                while not over.is_set():
                    connection.request("GET", "/v2/models/colours")
                    assert connection.getresponse().read()
                    count += 1
                assert connection.sock is not None
        except Exception as error:
            failures.append(error)
        counts.append(count)

    def serial() -> bytes:
        with socket.create_connection(("127.0.0.1", port_of(server.http)), 10) as connection:
            context = made.tls.context()
            with context.wrap_socket(connection, server_hostname="localhost") as secured:
                found = secured.getpeercert(binary_form=True)
                assert found is not None
                return found

    threads = [threading.Thread(target=calls, args=(anew,)) for anew in (False, True)]
    threads.append(threading.Thread(target=rest))
    for thread in threads:
        thread.start()
    try:
        before = serial()
        made.renew(days=40)
        server.wait_for_log("new certificate", expires=date(made))
        assert serial() != before
        shown = server.metric("convserve_tls_certificate_expiry_timestamp_seconds")
        assert shown == pytest.approx(made.expires)
        # A pair whose key is another's leaves the one in use.
        before = serial()
        made.write(made.key, made.stranger_key)
        server.wait_for_log("the certificate in use is kept")
        assert server.metric("convserve_tls_certificate_failed") == 1
        assert serial() == before
        made.renew(days=60)
        server.wait_for_log("new certificate", expires=date(made))
        assert server.metric("convserve_tls_certificate_failed") == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(counts) == 3
    assert min(counts) > 0


def date(made: Certified) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(made.expires))


def test_a_start_with_files_that_do_not_fit_ends_with_one_line(
    colours: Path, tmp_path: Path
) -> None:
    made = Certified(tmp_path / "bad")
    made.write(made.key, made.stranger_key)
    done = process("serve", "--model-repository", str(colours), *made.flags())
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert str(made.key) in line
    assert "is not the key of" in line

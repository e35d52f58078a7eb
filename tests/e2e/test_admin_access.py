"""Who may change a real server, over which way, and what strangers get instead."""

import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from tests.support.process import TOKEN, ServerProcess, token_flags
from tests.support.published import publish, samples

StartServer = Callable[..., ServerProcess]
NOBODY = 65534
JSON = {"Content-Type": "application/json"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


class OverSocket(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def over_port(server: ServerProcess) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=10)


def ask(
    connection: http.client.HTTPConnection, path: str, body: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Status and JSON of the answer to a GET, or to a POST of a body."""
    method = "GET" if body is None else "POST"
    connection.request(method, path, body, {**JSON, **headers})
    with connection.getresponse() as response:
        content = response.read()
        return response.status, json.loads(content) if content else None


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    (path / "files").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def admin_server(folder: Path, colours: Path, cache: Path) -> Iterator[ServerProcess]:
    """Takes every way to be admin, and writes files."""
    flags = ("--admin-socket", str(folder / "admin"), "--files-dir", str(folder / "files"))
    running = ServerProcess(colours, *token_flags(cache), *flags, cache=cache).wait_ready()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def plain_server(colours: Path, cache: Path) -> Iterator[ServerProcess]:
    """A server as it is by default, but for a folder for files."""
    files = ("--files-dir", str(colours.parent))
    running = ServerProcess(colours, *files, cache=cache).wait_ready()
    yield running
    running.kill()


def test_page_of_another_site_writes_no_file(plain_server: ServerProcess, tmp_path: Path) -> None:
    """What a page in a browser on this machine may send without being asked first."""
    victim = tmp_path / ".bashrc"
    victim.write_text("mine")
    headers = {
        "Content-Type": "text/plain",
        "Origin": "http://evil.example",
        "Host": "evil.example",
    }
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_file": str(victim)}
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, 8, 8, 3],
        "data": np.zeros(192, int).tolist(),
    }
    inference = {"id": "$(touch PWNED)", "inputs": [tensor]}
    connection = over_port(plain_server)
    assert ask(connection, "/v2/trace/setting", json.dumps(settings), **headers)[0] >= 400
    ask(connection, "/v2/models/colours/infer", json.dumps(inference), **headers)
    off = json.dumps({"trace_level": ["OFF"]})
    assert ask(connection, "/v2/trace/setting", off, **headers)[0] >= 400
    assert victim.read_text() == "mine"
    connection.close()


@pytest.mark.parametrize("name", ["/tmp/x", "../x", ".bashrc", "a/b", "~/.bashrc"])
def test_admin_himself_writes_no_file_elsewhere(name: str, admin_server: ServerProcess) -> None:
    connection = OverSocket(admin_server.admin_http)
    on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_file": name}
    for path, changes in (("/v2/trace/setting", on), ("/v2/logging", {"log_file": name})):
        status, answer = ask(connection, path, json.dumps(changes))
        assert status == 400
        assert "expected a plain name in --files-dir" in answer["error"]
    connection.close()


REFUSED: list[tuple[str, str, Callable[[triton.InferenceServerClient], object]]] = [
    (
        "RepositoryModelLoad",
        "/v2/repository/models/colours/load",
        lambda c: c.load_model("colours"),
    ),
    (
        "RepositoryModelUnload",
        "/v2/repository/models/colours/unload",
        lambda c: c.unload_model("colours"),
    ),
    (
        "TraceSetting",
        "/v2/trace/setting",
        lambda c: c.update_trace_settings("", {"trace_rate": "9"}),
    ),
    ("LogSettings", "/v2/logging", lambda c: c.update_log_settings({"log_error": False})),
    (
        "SystemSharedMemoryRegister",
        "/v2/systemsharedmemory/region/r/register",
        lambda c: c.register_system_shared_memory("r", "/convserve", 8),
    ),
    (
        "SystemSharedMemoryUnregister",
        "/v2/systemsharedmemory/unregister",
        lambda c: c.unregister_system_shared_memory(),
    ),
]


@pytest.mark.parametrize(("method", "path", "call"), REFUSED, ids=[line[0] for line in REFUSED])
def test_caller_on_loopback_is_no_admin_whatever_a_proxy_says_of_him(
    method: str,
    path: str,
    call: Callable[[triton.InferenceServerClient], object],
    plain_server: ServerProcess,
) -> None:
    sample = f'convserve_control_calls_total{{code="PERMISSION_DENIED",method="{method}"}} '

    def refused() -> float:
        _, text = plain_server.get(plain_server.metrics_url)
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(sample))

    before = refused()
    connection = over_port(plain_server)
    for forwarded in ({}, {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=unix"}):
        status, answer = ask(connection, path, "{}", **forwarded)
        assert status == 403
        assert "--admin-open" in answer["error"]
    connection.close()
    with triton.InferenceServerClient(plain_server.url) as client:
        with pytest.raises(InferenceServerException, match="--admin-open") as failure:
            call(client)
        assert failure.value.status() == "StatusCode.PERMISSION_DENIED"
    assert refused() - before == 3


def test_status_of_regions_and_the_regions_themselves_are_the_admins(
    plain_server: ServerProcess, admin_server: ServerProcess
) -> None:
    with triton.InferenceServerClient(plain_server.url) as client:
        assert "system_shared_memory" not in client.get_server_metadata().extensions
        with pytest.raises(InferenceServerException, match="--admin-open memory"):
            client.get_system_shared_memory_status()
    with (
        triton.InferenceServerClient(plain_server.admin) as client,
        pytest.raises(InferenceServerException, match="--shared-memory PREFIX"),
    ):
        client.get_system_shared_memory_status()
    with triton.InferenceServerClient(admin_server.admin) as client:
        assert "system_shared_memory" in client.get_server_metadata().extensions
    tensor = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    tensor.set_shared_memory("r", 192)
    plain = triton.InferInput("image", [6, 8, 8, 3], "UINT8")
    plain.set_data_from_numpy(samples())
    wanted = triton.InferRequestedOutput("logits")
    wanted.set_shared_memory("r", 72)
    for server in (plain_server, admin_server):
        with triton.InferenceServerClient(server.url) as client:
            for inputs, outputs in (([tensor], None), ([plain], [wanted])):
                with pytest.raises(InferenceServerException, match="--admin-open mem") as failure:
                    client.infer("colours", inputs, outputs=outputs)
                assert failure.value.status() == "StatusCode.PERMISSION_DENIED"
        parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 192}
        asked = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3]}
        body = json.dumps({"inputs": [{**asked, "parameters": parameters}]})
        connection = over_port(server)
        assert ask(connection, "/v2/models/colours/infer", body)[0] == 403
        connection.close()


def test_region_is_its_owners_alone(admin_server: ServerProcess) -> None:
    handle = shm.create_shared_memory_region("owned", "/convserve_owned", 4096)
    shm.set_shared_memory_region(handle, [samples()])
    tensor = triton.InferInput("image", [6, 8, 8, 3], "UINT8")
    tensor.set_shared_memory("owned", 1152)
    mine = triton.InferenceServerClient(admin_server.admin)
    other = triton.InferenceServerClient(admin_server.url)
    try:
        mine.register_system_shared_memory("owned", "/convserve_owned", 4096)
        assert mine.infer("colours", [tensor]).as_numpy("logits").shape == (6, 3)
        assert not other.get_system_shared_memory_status(headers=BEARER).regions
        with pytest.raises(InferenceServerException, match="no shared memory region 'owned'"):
            other.infer("colours", [tensor], headers=BEARER)
        other.unregister_system_shared_memory(headers=BEARER)
        assert list(mine.get_system_shared_memory_status().regions) == ["owned"]
    finally:
        mine.unregister_system_shared_memory()
        mine.close()
        other.close()
        shm.destroy_shared_memory_region(handle)


def test_regions_leave_descriptors_for_connections(admin_server: ServerProcess) -> None:
    handle = shm.create_shared_memory_region("many", "/convserve_many", 64)
    refused = []
    with triton.InferenceServerClient(admin_server.admin) as client:
        try:
            for number in range(300):
                try:
                    client.register_system_shared_memory(f"r{number}", "/convserve_many", 8)
                except InferenceServerException as error:
                    refused.append(error.message())
            assert len(refused) == 44
            assert all("256 regions are registered" in said for said in refused)
            assert admin_server.get(f"{admin_server.http}/readyz")[0] == 200
        finally:
            client.unregister_system_shared_memory()
            shm.destroy_shared_memory_region(handle)


def test_shared_memory_that_does_not_fit_its_input_is_not_read(admin_server: ServerProcess) -> None:
    size = 33 << 20
    path = Path("/dev/shm/convserve_large")
    path.touch()
    os.truncate(path, size)
    with triton.InferenceServerClient(admin_server.admin) as client:
        try:
            client.register_system_shared_memory("large", "/convserve_large", size)
            tensor = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
            tensor.set_shared_memory("large", size)
            with pytest.raises(InferenceServerException, match="takes 192 bytes, got 34603008"):
                client.infer("colours", [tensor])
            assert admin_server.metric('convserve_memory_held_bytes{use="message"}') == 0
        finally:
            client.unregister_system_shared_memory()
            path.unlink()


def connects_as(user: int, path: str) -> bool:
    """Whether a process of another user reaches a socket."""
    child = os.fork()
    if not child:  # nothing but system calls: the parent has threads
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            socket.socket(socket.AF_UNIX).connect(path)
            os._exit(0)
        except PermissionError:
            os._exit(3)
        finally:
            os._exit(4)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 3)
    return status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_another_user_reaches_no_admin_socket(folder: Path, admin_server: ServerProcess) -> None:
    sockets = [admin_server.admin.removeprefix("unix:"), admin_server.admin_http]
    assert [connects_as(NOBODY, path) for path in sockets] == [False, False]
    for path in sockets:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    # Neither does he where the folder alone were open.
    (folder / "admin").chmod(0o755)
    try:
        assert [connects_as(NOBODY, path) for path in sockets] == [False, False]
    finally:
        (folder / "admin").chmod(0o700)


def test_token_is_needed_and_follows_its_file(
    cache: Path, tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path / "models")
    flags = ("--model-control", "explicit", *token_flags(tmp_path))
    server = start_server(tmp_path / "models", *flags)
    connection = over_port(server)
    load = "/v2/repository/models/colours/load"

    def status(*headers: dict[str, str]) -> list[int]:
        return [ask(connection, load, "{}", **header)[0] for header in headers]

    wrong = {"authorization": "Bearer not-the-token-at-all"}
    assert status({}, wrong, BEARER) == [403, 403, 200]
    with triton.InferenceServerClient(server.url) as client:
        client.load_model("colours", headers=BEARER)
        for headers, said in ((None, "it needs 'authorization"), (wrong, "has not the token")):
            with pytest.raises(InferenceServerException, match=said):
                client.load_model("colours", headers=headers)
    rotated = tmp_path / "rotated"
    rotated.write_text("the-token-that-follows")
    rotated.chmod(0o600)
    rotated.replace(tmp_path / "admin-token")
    follows = {"authorization": "Bearer the-token-that-follows"}
    assert status(BEARER, follows) == [403, 200]
    (tmp_path / "admin-token").chmod(0o644)
    assert status(BEARER, follows) == [403, 403]
    server.wait_for_log("no token is taken")
    connection.close()


def test_sockets_are_gone_with_the_server_and_a_second_one_is_refused(
    colours: Path, cache: Path, tmp_path: Path, start_server: StartServer
) -> None:
    first = start_server(colours, "--admin-socket", str(tmp_path / "a"))
    command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(colours)]
    command += [f"--{port}-port=0" for port in ("grpc", "http", "metrics")]
    command += ["--cache-dir", str(cache), "--admin-socket", str(tmp_path / "a")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert f"--admin-socket: {tmp_path / 'a'} is in use by another server" in second.stderr
    assert "Traceback" not in second.stderr
    assert Path(first.admin_http).is_socket()
    assert first.terminate() == 0
    assert not (tmp_path / "a").exists()


def test_off_makes_no_socket_and_open_warns(
    colours: Path, tmp_path: Path, start_server: StartServer
) -> None:
    off = start_server(colours, "--admin", "off")
    assert off.admin == ""
    opened = start_server(colours, "--admin-open", "settings").wait_ready()
    assert opened.wait_for_log("everybody who reaches the ports is admin")["of"] == "settings"
    connection = over_port(off)
    status, answer = ask(connection, "/v2/logging", "{}")
    assert status == 403
    assert "admin calls are off" in answer["error"]
    connection.close()
    connection = over_port(opened)
    assert ask(connection, "/v2/logging", '{"log_verbose_level": 1}')[0] == 200
    assert ask(connection, "/v2/repository/models/colours/load", "{}")[0] == 403
    connection.close()
    line = opened.wait_for_log("admin call", method="LogSettings")
    assert line["by"] == "address 127.0.0.1"


def test_strangers_read_reasons_without_the_place_of_the_repository(
    tmp_path: Path, start_server: StartServer
) -> None:
    publish(tmp_path / "models")
    (tmp_path / "models" / "broken" / "1").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "config.pbtxt").write_text("nonsense: {")
    server = start_server(tmp_path / "models").wait_ready()
    assert str(tmp_path) in server.wait_for_log("model not loaded")["reason"]
    connection = over_port(server)
    _, lines = ask(connection, "/v2/repository/index", "{}")
    _, failure = ask(connection, "/v2/models/broken")
    connection.close()
    texts = [server.get(f"{server.http}/readyz")[1], str(lines), failure["error"]]
    for text in texts:
        assert str(tmp_path) not in text
        assert "broken/config.pbtxt" in text

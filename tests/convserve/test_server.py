"""`convserve.Server` and `convserve.Client`, as a notebook has them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import convserve
from tests.support.published import publish

RED = np.full((8, 8, 3), (210, 20, 30), np.uint8)


def test_server_answers_within_its_block_and_ends_with_it(colours: Path, cache: Path) -> None:
    server = convserve.Server(colours, cache_dir=cache)
    assert not server.ready
    with server, server.client() as client:
        assert server.ready
        assert server.address in repr(server)
        answer = client.classify("colours", RED)
        assert answer.results[0].labels[0].name == "red"
        process = server._process
        assert process is not None
        assert process.poll() is None
        assert any('"listening"' in line for line in server.log)
        assert server.http_address.startswith("http://127.0.0.1:")
        assert server.metrics_address.endswith("/metrics")
        with pytest.raises(convserve.StartError, match="runs already"):
            server.start()
        # Beside it on ports of its own; explicit, so that it listens and has loaded nothing.
        with convserve.Server([colours], cache_dir=cache, model_control="explicit") as other:
            assert other.address != server.address
            assert not other.ready
    assert process.returncode == 0
    assert repr(server) == "<convserve.Server: stopped>"
    with pytest.raises(convserve.StartError, match="does not run"):
        _ = server.address
    server.stop()


def test_client_works_where_an_event_loop_runs(server: "object", colours: Path) -> None:
    """A notebook's cells run in one."""
    url = server.url  # type: ignore[attr-defined]

    async def cell() -> list[str]:
        with convserve.Client(url) as client:
            one = client.classify("colours", RED)
            many = client.classify_many("colours", [RED, RED])
            return [
                one.results[0].labels[0].name,
                *(found.results[0].labels[0].name for _, found in many),  # type: ignore[union-attr]
            ]

    assert asyncio.run(cell()) == ["red"] * 3


@pytest.mark.filterwarnings("error")
def test_closed_client_says_so() -> None:
    with convserve.Client("127.0.0.1:1") as client:
        pass
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.classify("colours", b"")


def test_client_that_cannot_be_made_leaves_no_thread(tmp_path: Path) -> None:
    async def cell() -> None:
        tls = convserve.ClientTls(ca=tmp_path / "none.pem")
        with pytest.raises(Exception, match=r"none\.pem"):
            convserve.Client("127.0.0.1:1", tls=tls)

    asyncio.run(cell())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"enginee": "auto"}, "enginee: no setting"),
        ({"grpc_port": 70000}, "65535"),
        ({"tls_cert": "a.pem"}, "tls-key"),
    ],
)
def test_wrong_settings_are_told_without_a_process(
    settings: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(convserve.StartError, match=said):
        convserve.Server(tmp_path, **settings)


def test_server_that_cannot_start_says_why_and_is_gone(tmp_path: Path, cache: Path) -> None:
    server = convserve.Server(tmp_path / "nowhere", cache_dir=cache)
    with pytest.raises(convserve.StartError, match="nowhere"):
        server.start()
    assert server._process is not None
    assert server._process.returncode is not None


def test_empty_repository_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(convserve.StartError, match="holds no model"):
        convserve.Server(tmp_path).start()


def test_models_that_cannot_be_loaded_are_told(tmp_path: Path, cache: Path) -> None:
    (publish(tmp_path) / "manifest.json").write_text('{"schema_version": "1.0"}')
    with pytest.raises(convserve.StartError, match=r"colours.*manifest"):
        convserve.Server(tmp_path, cache_dir=cache).start()


PROGRAM = """
import sys, convserve
server = convserve.Server(sys.argv[1], cache_dir=sys.argv[2], model_control="explicit").start()
print(server._process.pid, flush=True)
sys.stdin.read()
"""


def test_server_ends_with_a_process_that_is_killed(colours: Path, cache: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(colours), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        os.kill(server, 0)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while _runs(server):
        assert time.monotonic() < end
        time.sleep(0.02)  # between two looks at a process that is nobody's child here


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""A Ray cluster gives the rows of one process, also after a kill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scoring.errors import ScoringError
from tests.scoring.conftest import COUNT, Command, Score

pytest.importorskip("ray", reason="convserve[ray] is not installed")

# Ray's processes take 10 s to start, and each of its workers as long as a server.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two processors on loopback addresses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    settings = {
        "RAY_ADDRESS": address,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        # Then its processes listen on the loopback address alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    # Paths of its sockets have 107 bytes at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    command += ["--include-dashboard=false", f"--temp-dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        head = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not _listens(port):
                assert head.poll() is None
                time.sleep(0.1)  # between two looks at a condition that no event tells of
            yield
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


KILLED = """
import os, signal
job.Job.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_a_cluster_gives_the_rows_of_one_process(
    cluster: None,
    arguments: tuple[object, ...],
    images: Path,
    score: Score,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.parquet"
    ray = (*arguments, "--out", out, "--ray", "--ray-workers", 2)
    killed = Command(*ray, before=KILLED)
    killed.end()
    [part] = (tmp_path / "out.parquet.parts").glob("part-*")
    table = pq.read_table(part)
    part.unlink()
    pq.write_table(table.slice(10, 5), part.with_name("part-000000000010-000000000015.parquet"))
    status, _, error = Command(*ray, "--quiet").end()
    assert status == 0, error
    score(images, tmp_path / "here.parquet")
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "here.parquet"))
    assert len(table) == COUNT + 3


def test_faults_of_workers_are_told_in_one_line(
    cluster: None, images: Path, colours: Path, tmp_path: Path
) -> None:
    command = Command(
        images, "--model", "absent", "--model-repository", colours, "--out", tmp_path / "o.parquet",
        "--ray",
    )  # fmt: skip
    status, _, error = command.end()
    assert status == 1
    assert error == f"convserve: no folder 'absent' in the model repository {colours}\n"


def test_no_cluster_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from scoring import cluster as on_ray

    def absent(**_: object) -> None:
        raise ConnectionError("no running Ray")

    monkeypatch.setattr(on_ray.ray, "init", absent)
    with pytest.raises(ScoringError, match=r"no cluster runs here; `ray start --head` starts one"):
        on_ray._connect()

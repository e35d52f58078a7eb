"""The init container of the chart that fetches models: it unpacks archives of the expected digest,
only below its folder, and says why it refuses others."""

import hashlib
import http.server
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.tools import CHART, run


class Archives:
    """An HTTP server with one archive of a model."""

    def __init__(self) -> None:
        self.hold("colours/config.pbtxt")
        self.authorizations: list[str | None] = []
        archives = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                archives.authorizations.append(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(archives.content)

            def log_message(self, *_: object) -> None:
                """Keeps the test's output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/colours.tar.gz"

    def hold(self, name: str, kind: bytes = tarfile.REGTYPE) -> None:
        """From now on the archive holds one entry, of this name and type."""
        content = b"max_batch_size: 1\n" if kind == tarfile.REGTYPE else b""
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, len(content), "/etc"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.addfile(entry, io.BytesIO(content))
        self.content = buffer.getvalue()
        self.sha256 = hashlib.sha256(self.content).hexdigest()


@pytest.fixture
def archives() -> Iterator[Archives]:
    """Running for one test."""
    serving = Archives()
    thread = threading.Thread(target=serving.server.serve_forever)
    thread.start()
    yield serving
    serving.server.shutdown()
    thread.join()
    serving.server.server_close()


def sync(archives: Archives, folder: Path, sha256: str, **env: str) -> tuple[int, str]:
    """Runs the init container's program; status and output."""
    listed = folder.parent / "archives.json"
    listed.write_text(json.dumps([{"url": archives.url, "sha256": sha256}]))
    folder.mkdir(exist_ok=True)
    script = str(CHART / "files" / "sync.py")
    done = run(sys.executable, script, str(listed), str(folder), env=env)
    return done.returncode, done.stdout + done.stderr


def test_models_are_synced_by_digest_once(archives: Archives, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    status, text = sync(archives, folder, archives.sha256, SYNC_AUTHORIZATION="Bearer secret")
    assert status == 0, text
    assert (folder / "colours" / "config.pbtxt").read_text() == "max_batch_size: 1\n"
    assert sync(archives, folder, archives.sha256)[0] == 0
    assert archives.authorizations == ["Bearer secret"]


def test_an_archive_of_another_digest_is_not_unpacked(archives: Archives, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    status, text = sync(archives, folder, "0" * 64)
    assert status == 1
    assert "expected 000" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("/outside", tarfile.REGTYPE),
        ("colours/1", tarfile.SYMTYPE),
        ("colours/1", tarfile.LNKTYPE),
        ("colours/1", tarfile.FIFOTYPE),
    ],
)
def test_an_archive_cannot_reach_out_of_its_folder(
    archives: Archives, tmp_path: Path, name: str, kind: bytes
) -> None:
    archives.hold(name, kind)
    folder = tmp_path / "models"
    status, text = sync(archives, folder, archives.sha256)
    assert status == 1
    assert "is not a file or folder below" in text
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_server_that_is_gone_is_one_clear_line(archives: Archives, tmp_path: Path) -> None:
    archives.url = "http://127.0.0.1:9/colours.tar.gz"
    status, text = sync(archives, tmp_path / "models", archives.sha256)
    assert status == 1
    assert "cannot be fetched" in text
    assert "Traceback" not in text

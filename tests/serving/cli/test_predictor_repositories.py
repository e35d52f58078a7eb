"""Commands take the repositories that a server takes."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from serving.cli.predictor import folders_at
from tests.support.published import publish


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A repository behind a web server that shows its folders, until the test closes it."""
    publish(tmp_path / "far", "far")
    handler = partial(_Quiet, directory=str(tmp_path / "far"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_models_of_folders_and_urls_are_there(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "here", "here")
    publish(tmp_path / "far", "broken", gain=3.0)
    (tmp_path / "far" / "broken" / "1" / "model.onnx").write_bytes(b"half")
    found = folders_at([str(tmp_path / "here"), url], tmp_path / "cache")
    assert sorted(found) == ["broken", "far", "here"]
    assert (found["far"].path / "1" / "model.onnx").is_file()
    assert "sha256 is" in found["broken"].problem


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("s3://me:secret1@bucket/models", "the URL holds a user or password"),
        ("nothing://x/y", "nothing://: expected s3, gs, az"),
        ("absent", "absent: no such folder"),
        ("http://127.0.0.1:1/models", "nothing was fetched before"),
    ],
)
def test_places_that_cannot_be_read_end_a_command_in_one_line(
    address: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.base.storage.store._FIRST_PAUSE", 0.01)
    with pytest.raises(typer.Exit):
        folders_at([address], tmp_path / "cache")
    said = capsys.readouterr().err
    assert reason in said
    assert "secret1" not in said
    assert "Traceback" not in said

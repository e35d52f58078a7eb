"""Images in a real object store, and on a web server."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from scoring.errors import ScoringError
from scoring.sources import remote
from scoring.sources.opened import open_source
from serving.base.storage import systems
from tests.scoring.conftest import Score, rows_of
from tests.support.object_store import ENVIRONMENT, SECRET, object_store, upload


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with object_store() as address:
            patch.setenv("AWS_ENDPOINT_URL", address)
            yield address


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Those of the images whose names every store takes."""
    root = tmp_path_factory.mktemp("here")
    for file in (*images.glob("f*/*.jpg"), images / "broken.jpg"):
        place = root / file.relative_to(images)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(file.read_bytes())
    return root


@pytest.fixture(scope="module")
def url(endpoint: str, here: Path) -> str:
    return upload(endpoint, here, "set")


def rows(table: Path) -> list[dict[str, Any]]:
    """The rows, with scores to six digits: images that come more slowly ride in smaller batches,
    whose last digits differ."""

    def told(value: Any) -> Any:
        if isinstance(value, float):
            return f"{value:.6f}"
        if isinstance(value, list):
            return [told(one) for one in value]
        return {key: told(one) for key, one in value.items()} if isinstance(value, dict) else value

    return [told(row) for row in pq.read_table(table).to_pylist()]


def test_a_store_gives_the_rows_of_a_folder(
    url: str, here: Path, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    page = systems._s3_page

    async def short(system: object, path: str, mark: str | None) -> systems.Page:
        call = system._call_s3  # type: ignore[attr-defined]

        class Short:
            split_path = staticmethod(system.split_path)  # type: ignore[attr-defined]

            async def _call_s3(self, *method: str, **given: object) -> object:
                return await call(*method, MaxKeys=7, **given)

        found = await page(Short(), path, mark)
        pages.append(len(found[0]))
        return found

    monkeypatch.setitem(systems._PAGE_BELOW, "s3fs", short)
    score(url, tmp_path / "far.parquet")
    score(here, tmp_path / "near.parquet")
    assert rows(tmp_path / "far.parquet") == rows(tmp_path / "near.parquet")
    assert pages[:5] == [7] * 5


def test_a_web_server_gives_the_rows_of_a_folder(here: Path, score: Score, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    # It shows its folders, and sends whole files of less than was asked for.
    handler = partial(Quiet, directory=str(here))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        score(f"http://127.0.0.1:{server.server_port}", tmp_path / "far.parquet")
        server.shutdown()
    score(here, tmp_path / "near.parquet")
    assert rows(tmp_path / "far.parquet") == rows(tmp_path / "near.parquet")


def test_an_object_that_is_gone_is_a_row_with_its_error(
    url: str, endpoint: str, score: Score, tmp_path: Path
) -> None:
    source = open_source(url)
    items = list(source.items())
    source.items = lambda: iter([*items, items[0]._replace(name=b"gone.jpg")])  # type: ignore[method-assign]
    score(source, tmp_path / "o.parquet")
    errors = {row["image"]: row["error"] for row in rows_of(tmp_path / "o.parquet") if row["error"]}
    assert errors["gone.jpg"] == f"{url}/gone.jpg: is not there"


def test_a_large_object_is_not_read(
    url: str, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(url)
    items = list(source.items())[:1]
    source.items = lambda: iter([items[0]._replace(size=1 << 40)])  # type: ignore[method-assign]
    monkeypatch.setattr(source, "read", None)
    score(source, tmp_path / "o.parquet", most_failed=1.0)
    [row] = rows_of(tmp_path / "o.parquet")
    assert row["error"].startswith("1,099,511,627,776 bytes, expected at most")


def test_credentials_that_run_out_end_the_job_and_cost_no_image(
    url: str, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(url)
    first = next(iter(source.items()))
    assert len(source.read(first, 0, first.size)) == first.size

    def refused(address: str, start: int, end: int) -> bytes:
        raise remote._Fault(f"{address}: access is refused") from PermissionError()

    monkeypatch.setattr(source._store, "read", refused)  # type: ignore[attr-defined]
    with pytest.raises(ScoringError, match="access is refused"):
        score(source, tmp_path / "o.parquet", most_failed=1.0)
    assert not list((tmp_path / "o.parquet.parts").glob("part-*"))


def test_one_object_that_may_not_be_read_is_a_row_with_its_error(
    url: str, score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(url)
    read = source._store.read  # type: ignore[attr-defined]

    def refused(address: str, start: int, end: int) -> bytes:
        if address.endswith("f1/004.jpg"):
            raise remote._Fault(f"{address}: access is refused") from PermissionError()
        return read(address, start, end)  # type: ignore[no-any-return]

    monkeypatch.setattr(source._store, "read", refused)  # type: ignore[attr-defined]
    assert score(source, tmp_path / "o.parquet").failed == 2


def test_a_store_that_cannot_be_reached_names_no_secret(
    endpoint: str, score: Score, tmp_path: Path
) -> None:
    with pytest.raises(ScoringError, match="s3://nowhere/at/all") as raised:
        score("s3://nowhere/at/all", tmp_path / "o.parquet")
    assert SECRET not in str(raised.value)

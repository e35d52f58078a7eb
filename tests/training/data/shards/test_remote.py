"""Shards and folders in a real object store, over connections that break."""

import http.server
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest

from serving.base.storage import store, web
from serving.base.storage.messages import told
from tests.support.object_store import BUCKET, SECRET, CuttingProxy, files, upload, web_server
from tests.training.data.shards.conftest import recipe, written
from training.data import fingerprint, load_source
from training.data.loader import Loader
from training.data.samples import Samples, StreamedSamples
from training.data.sampling import Windowed
from training.data.storage.store import WORDS, Store
from training.errors import DataError
from training.recipes.remote.storage import Storage


def everything(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    return samples.batch(range(len(samples)))


def test_store_gives_the_images_that_a_folder_gives(
    remote_shards: str, shard_folder: Path, store_endpoint: str
) -> None:
    storage = {"endpoint_url": store_endpoint}
    far = load_source(recipe({"source": "shards", "train": remote_shards, "storage": storage}))
    near = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    assert far.classes == near.classes == ("blue", "red")
    for split in ("train", "val", "test"):
        ours, theirs = getattr(far, split), getattr(near, split)
        assert list(ours.names) == list(theirs.names)
        for one, other in zip(everything(ours), everything(theirs), strict=True):
            assert np.array_equal(one, other)


def test_cut_connections_are_taken_up_where_they_broke(
    store_endpoint: str, environment: None, proxy: CuttingProxy, tmp_path: Path
) -> None:
    content = np.random.default_rng(0).bytes(1_123_457)
    (tmp_path / "file").write_bytes(content)
    url = f"s3://{BUCKET}/large"
    files(store_endpoint).put(str(tmp_path / "file"), url)
    proxy.cut_after = 200_000
    opened = Store(Storage(endpoint_url=proxy.endpoint, timeout_seconds=30, attempts=6))
    assert opened.read(url, 5, len(content) - 7) == content[5:-7]
    assert proxy.cuts > 1


def test_training_reads_on_over_cut_connections(
    remote_shards: str, shard_folder: Path, proxy: CuttingProxy
) -> None:
    storage = {"endpoint_url": proxy.endpoint}
    far = load_source(recipe({"source": "shards", "train": remote_shards, "storage": storage}))
    near = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    # Less than a shard, so that each request of a whole one breaks.
    proxy.cut_after = 66_000
    assert shard_folder.joinpath("train-000000.tar").stat().st_size > proxy.cut_after
    for ours, theirs in zip(*map(shuffled, (far.train, near.train)), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert proxy.cuts


def shuffled(samples: Samples) -> list[tuple[np.ndarray, np.ndarray]]:
    assert isinstance(samples, StreamedSamples)
    loader = Loader(samples, Windowed(samples.groups, 8, seed=1, window=30))
    return [(images.numpy(), targets.numpy()) for images, targets in loader]


def test_store_that_answers_nothing_is_waited_for_and_named(
    remote_shards: str, proxy: CuttingProxy
) -> None:
    proxy.stalled = True
    opened = Store(Storage(endpoint_url=proxy.endpoint, timeout_seconds=0.3, attempts=2))
    with pytest.raises(DataError, match=r"train-000000\.tar: .*no answer in storage\.timeout_s"):
        opened.read(f"{remote_shards}/train-000000.tar", 0, 1000)


def test_store_that_hangs_is_told_soon_with_the_time_of_its_end(
    remote_shards: str,
    proxy: CuttingProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "_SILENCE", 0.1)
    proxy.stalled = True
    waiting = Store(Storage(endpoint_url=proxy.endpoint, timeout_seconds=1.0, attempts=2))
    shard = f"{remote_shards}/train-000000.tar"
    with pytest.raises(DataError, match="no answer in"):
        waiting.read(shard, 0, 1000)
    [said, *_] = [line for line in caplog.messages if "no answer for" in line]
    bounds = r"a request is waited for 1 s, and made 2 times at most"
    assert re.fullmatch(rf"{re.escape(shard)}: no answer for \d s; {bounds}", said)


class Hanging(fsspec.AbstractFileSystem):
    """A file system of a package without asynchronous calls, whose store hangs."""

    protocol = "hanging"

    def info(self, path: str, **given: object) -> dict[str, object]:
        threading.Event().wait()
        return {}


def test_store_of_a_package_that_knows_no_time_out_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "file_system", lambda *_: Hanging())
    waiting = Store(Storage(timeout_seconds=0.1, attempts=2))
    with pytest.raises(DataError, match=r"after 2 tries: no answer in storage\.timeout_seconds"):
        waiting.entry("hanging://somewhere/x.tar")


def test_store_that_is_slow_is_waited_for(remote_shards: str, proxy: CuttingProxy) -> None:
    proxy.stalled = True
    opened = Store(Storage(endpoint_url=proxy.endpoint, timeout_seconds=0.5, attempts=100))
    answered = threading.Thread(target=lambda: proxy.asked.wait() and proxy.answer())
    answered.start()
    assert len(opened.read(f"{remote_shards}/train-000000.tar", 0, 1000)) == 1000
    answered.join()


def test_missing_object_is_named_and_no_credential(
    remote_shards: str, store_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "serving")
    wanted = {"source": "shards", "train": f"{remote_shards}/train-{{000000..000007}}.tar"}
    with pytest.raises(DataError, match=r"s3://pictures/shards/train-000003\.tar: is not th") as no:
        load_source(recipe({**wanted, "storage": {"endpoint_url": store_endpoint}}))
    assert SECRET not in str(no.value) + caplog.text


def test_store_that_is_not_there_ends_in_one_line(environment: None) -> None:
    opened = Store(Storage(endpoint_url="http://127.0.0.1:1", timeout_seconds=5, attempts=2))
    with pytest.raises(DataError, match=r"^s3://pictures/x\.tar: after 2 tries: ") as error:
        opened.entry("s3://pictures/x.tar")
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_are_written_to_a_store(pictures: Path, store_endpoint: str) -> None:
    url = f"s3://{BUCKET}/written"
    storage = Storage(endpoint_url=store_endpoint)
    written(pictures, url, Store(storage))
    data = {"source": "shards", "train": url, "storage": {"endpoint_url": store_endpoint}}
    loaded = load_source(recipe(data))
    assert [len(x) for x in (loaded.train, loaded.val, loaded.test)] == [60, 12, 12]
    first = files(store_endpoint).info(f"{url}/train-000000.tar")["LastModified"]
    written(pictures, url, Store(storage))
    assert files(store_endpoint).info(f"{url}/train-000000.tar")["LastModified"] == first


def test_folder_behind_a_url_is_read_as_one_here(pictures: Path, store_endpoint: str) -> None:
    url = upload(store_endpoint, pictures, "folder")
    remote = recipe({
        "source": "remote_folder", "root": url, "storage": {"endpoint_url": store_endpoint}
    })  # fmt: skip
    far = load_source(remote)
    near = load_source(recipe({"source": "image_folder", "root": str(pictures)}))
    assert far.classes == near.classes
    for split in ("train", "val", "test"):
        assert list(getattr(far, split).names) == list(getattr(near, split).names)
        for one, other in zip(
            *map(everything, (getattr(far, split), getattr(near, split))), strict=True
        ):
            assert np.array_equal(one, other)
    before = fingerprint(remote)
    files(store_endpoint).pipe_file(f"{url}/train/red/00.png", b"other")
    changed = fingerprint(remote)
    files(store_endpoint).pipe_file(f"{url}/classes.txt", b"red\nblue\n\n")
    assert len({before, changed, fingerprint(remote)}) == 3


def test_secrets_of_the_environment_are_no_part_of_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    said = str(told(WORDS, "s3://b/k", ValueError(f"signed with {SECRET}")))
    assert said == "s3://b/k: ValueError signed with ***"


def test_shards_behind_a_web_server(shard_folder: Path) -> None:
    with web_server(shard_folder) as web:
        data = {"train": f"{web}/train-{{000000..000002}}.tar", "val": f"{web}/val-000000.tar"}
        loaded = load_source(recipe({"source": "shards", **data, "test": data["val"]}))
        assert [len(x) for x in (loaded.train, loaded.val, loaded.test)] == [60, 12, 12]
        indexed = load_source(recipe({"source": "shards", "train": web}))
        for one, other in zip(*map(everything, (loaded.val, indexed.val)), strict=True):
            assert np.array_equal(one, other)


class WithoutRanges(http.server.BaseHTTPRequestHandler):
    """Answers 200 and 512 KiB at a time, as long as somebody listens.

    sent: parts of answers.
    claims: answers 206, as if it were the range asked for; with a length, if there is one.
    """

    sent = 0
    claims: ClassVar[int | bool] = False

    def do_GET(self) -> None:
        self.send_response(206 if self.claims else 200)
        if self.claims:
            asked = self.headers.get("x-ms-range") or self.headers["Range"]
            self.send_header("Content-Range", f"{asked.replace('=', ' ')}/1000000000")
        if self.claims > 1:
            self.send_header("Content-Length", str(self.claims))
        self.end_headers()
        with suppress(OSError):
            while WithoutRanges.sent < 1000:
                self.wfile.write(bytes(1 << 19))
                WithoutRanges.sent += 1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def without_ranges() -> Iterator[str]:
    WithoutRanges.sent, WithoutRanges.claims = 0, False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), WithoutRanges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("start", "claims"),
    [(0, False), (5000, False), (5000, True), (5000, 1 << 29)],
    ids=["whole", "whole-from-a-place", "claims-to-be-the-range", "tells-its-length"],
)
@pytest.mark.parametrize("scheme", ["http", "s3", "gs", "az"])
def test_server_without_ranges_is_told_and_not_read_to_its_end(
    start: int,
    claims: int,
    scheme: str,
    without_ranges: str,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    WithoutRanges.claims = claims
    storage = Storage()
    if scheme in ("s3", "gs"):
        storage = Storage(endpoint_url=without_ranges, anon=scheme == "gs")
    account = f"AccountName=x;AccountKey=eA==;BlobEndpoint={without_ranges}/x;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account)
    address = without_ranges if scheme == "http" else f"{scheme}://{BUCKET}"
    with pytest.raises(DataError, match="sends whole files instead of the range asked for"):
        Store(storage).read(f"{address}/train-000000.tar", start, start + 1000)
    assert WithoutRanges.sent < 100


def test_page_of_a_web_server_is_bounded(
    without_ranges: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_MOST_PAGE_BYTES", 1 << 20)
    with pytest.raises(DataError, match="a page of more than 1 MiB"):
        Store().list(f"{without_ranges}/folder/")
    assert WithoutRanges.sent < 100


def test_signature_of_a_copys_address_is_in_no_message() -> None:
    """Stores answer with the signed address of a copy, which the error then names."""
    error = OSError("403, url='https://cdn.example/x.tar?X-Amz-Signature=5ec7e7&a=b'")
    said = str(told(WORDS, "https://example/x.tar", error))
    assert "5ec7e7" not in said
    assert "https://cdn.example/x.tar?***" in said

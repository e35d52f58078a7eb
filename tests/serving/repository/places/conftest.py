"""Repositories in stores: a real S3 server, a web server, and fsspec's memory."""

import hashlib
import http.server
import importlib.util
import os
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from serving.base.metrics import EngineMetrics
from serving.base.storage import store
from serving.repository.manifest import (
    EvalTransform,
    Manifest,
    Normalization,
    Provenance,
    Variant,
    write_manifest,
)
from serving.repository.places import state
from serving.repository.places.repositories import Repositories
from serving.repository.places.state import Cache
from tests.support.object_store import (
    BUCKET,
    ENVIRONMENT,
    CuttingProxy,
    azure_store,
    azurite,
    files,
    google_store,
    object_store,
)

_NOBODY = dict.fromkeys(("recipe", "recipe_sha256", "run", "dataset", "split", "created"), "none")


def version(
    repository: Path,
    content: bytes,
    number: int = 1,
    name: str = "m",
    config: str = 'platform: "onnxruntime_onnx"\n',
) -> Path:
    """Writes one version with a manifest, and the model's config; the version's folder."""
    folder = repository / name / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    variant = Variant(
        id="fp32",
        file="model.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        precision="fp32",
        evidence={},
    )
    manifest = Manifest(
        task="classification",
        architecture="none",
        measure="top1",
        transform=EvalTransform(resize=(8, 8)),
        normalization=Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        classes=("a", "b"),
        parameters=0,
        gmacs=None,
        provenance=Provenance(**_NOBODY),
        variants=(variant,),
    )
    write_manifest(folder, manifest)
    (repository / name / "config.pbtxt").write_text(config)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their path in it; those that are hidden are left out."""
    found: dict[str, bytes] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(place) / name for name in names if not name.startswith(".")):
            if file.is_file():
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


class Remote:
    """A repository behind a URL, and the folder here that follows it.

    local: the files that the store is to hold.
    denied: paths that a web server refuses.
    """

    def __init__(
        self, local: Path, url: str, cache: Cache, store: fsspec.AbstractFileSystem | None = None
    ) -> None:
        self._store = store or fsspec.filesystem(url.partition("://")[0])
        self._root = self._store._strip_protocol(url)
        self.local = local
        self.url = url
        self.cache = cache
        self.denied: set[str] = set()
        self.open()

    def open(self, cache: Cache | None = None) -> None:
        """As a process that has just begun."""
        self.metrics = EngineMetrics()
        self.repositories = Repositories.of(
            self.url, cache=cache or self.cache, metrics=self.metrics
        )

    def upload(self) -> None:
        """Makes the store hold what `local` does; what it holds already is left alone."""
        for name in [str(p.relative_to(self.local)) for p in sorted(self.local.rglob("*"))]:
            if (self.local / name).is_file():
                self.write(name, (self.local / name).read_bytes())
        for path in self._store.find(self._root):
            if not (self.local / path.removeprefix(f"{self._root}/")).is_file():
                self._store.rm(path)

    def write(self, name: str, content: bytes) -> None:
        """Puts one object into the store, unless it is there."""
        path = f"{self._root}/{name}"
        if not self._store.exists(path) or self._store.cat_file(path) != content:
            self._store.pipe_file(path, content)

    def remove(self) -> None:
        """Makes the store hold nothing."""
        self._store.rm(self._root, recursive=True)

    def fetch(self) -> dict[str, str]:
        """Fetches; the reason for each model that is not the newest or not there."""
        self.repositories.fetch_now()
        scanned = self.repositories.scan()
        return {name: f.problem or f.stale for name, f in scanned.items() if f.problem or f.stale}

    @property
    def here(self) -> dict[str, bytes]:
        """The files of the folder here."""
        return content(self.folder)

    @property
    def folder(self) -> Path:
        return self.cache.place(self.url).models

    @property
    def fetched(self) -> float:
        """Bytes that came from the store since `open`."""
        return self.metrics.fetched_bytes.labels(self.url).value

    @property
    def failures(self) -> float:
        return self.metrics.fetch_failures.labels(self.url).value

    def left(self) -> list[str]:
        """What an interrupted fetch has left."""
        return [path.name for path in (self.cache.folder / "partial").iterdir()]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again soon."""
    monkeypatch.setattr(store, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(state, "_FIRST_PAUSE", 0.0)


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1 << 30, 10.0)


@pytest.fixture
def remote(tmp_path: Path, kept: Cache) -> Remote:
    """A repository in memory."""
    return Remote(tmp_path / "local", f"memory://{uuid.uuid4().hex}/models", kept)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server that lists three objects a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with object_store() as endpoint:
            yield endpoint


@pytest.fixture
def proxy(s3: str) -> Iterator[CuttingProxy]:
    running = CuttingProxy(s3)
    yield running
    running.close()


@pytest.fixture
def in_s3(
    s3: str, tmp_path: Path, kept: Cache, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> Remote:
    """A repository in an S3 server, behind `proxy`."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}/models"
    return Remote(tmp_path / "local", url, kept, files(s3))


@pytest.fixture
def in_gs(tmp_path: Path, kept: Cache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """A repository in a GCS server."""
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        pytest.skip("gcp-storage-emulator is not installed")
    from gcsfs.core import GCSFileSystem

    with google_store() as endpoint:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        # As FSSPEC_GS_... in the environment do, which fsspec reads when it is imported.
        options = {"endpoint_url": endpoint, "token": "anon"}
        monkeypatch.setitem(fsspec.config.conf, "gs", options)
        store = GCSFileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        yield Remote(tmp_path / "local", f"gs://{BUCKET}/models", kept, store)


@pytest.fixture
def in_az(tmp_path: Path, kept: Cache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """A repository in an Azure server."""
    if azurite() is None:
        pytest.skip("Azurite is not installed")
    with azure_store(tmp_path / "azurite") as told:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", told)
        store = fsspec.filesystem("az", connection_string=told, use_listings_cache=False)
        yield Remote(tmp_path / "local", f"az://{BUCKET}/models", kept, store)


class _Shown(http.server.SimpleHTTPRequestHandler):
    """Shows a folder, but for some paths in it."""

    def __init__(self, *given: Any, denied: set[str], directory: str) -> None:
        self._denied = denied
        super().__init__(*given, directory=directory)

    def send_head(self) -> Any:
        if self.path in self._denied:
            return self.send_error(403)
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def on_the_web(tmp_path: Path, kept: Cache) -> Iterator[Remote]:
    """A repository behind a web server that shows its folders."""
    local = tmp_path / "local"
    local.mkdir()
    denied: set[str] = set()
    handler = partial(_Shown, directory=str(local), denied=denied)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = Remote(local, f"http://127.0.0.1:{server.server_port}", kept)
        remote.denied = denied
        yield remote
        server.shutdown()

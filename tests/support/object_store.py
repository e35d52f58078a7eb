"""Real object stores on this machine (moto's S3; Google's and Azure's where their emulators are
installed), and a proxy that cuts connections."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

BUCKET = "pictures"
SECRET = "not-to-be-told-to-anybody"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "TESTACCESSKEYID",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def object_store() -> Iterator[str]:
    """An empty store with a bucket; its endpoint. The environment must hold ENVIRONMENT."""
    with _serving("-m", "moto.server", "-H", "127.0.0.1", "-p") as endpoint:
        files(endpoint).mkdir(BUCKET)
        yield endpoint


@contextmanager
def google_store() -> Iterator[str]:
    """An empty store of gcp-storage-emulator's with a bucket; its endpoint."""
    serve = (
        "import sys; from gcp_storage_emulator.server import create_server; "
        "create_server('127.0.0.1', int(sys.argv[1]), in_memory=True).run()"
    )
    with _serving("-c", serve) as endpoint:
        address = f"{endpoint}/storage/v1/b?project=tests"
        body = json.dumps({"name": BUCKET}).encode()
        asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked):
            yield endpoint


def azurite() -> str | None:
    """The program of Azurite, which npm installs: $AZURITE, or by name."""
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


@contextmanager
def azure_store(folder: Path) -> Iterator[str]:
    """An empty store of Azurite's with a container; its connection string."""
    # The account and the key are Azurite's own, which its documentation gives.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    options = ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder))
    program = azurite()
    assert program is not None
    command = (program, *options, "--blobHost", "127.0.0.1", "--blobPort")
    with _serving(*command, program=()) as endpoint:
        account = f"AccountName=devstoreaccount1;AccountKey={key}"
        told = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={endpoint}/devstoreaccount1;"
        fsspec.filesystem("az", connection_string=told, anon=False).mkdir(BUCKET)
        yield told


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A web server with a folder, which answers range requests; its address."""
    serve = (
        "import sys; from aiohttp import web; app = web.Application(); "
        "app.router.add_static('/', sys.argv[1]); "
        "web.run_app(app, host='127.0.0.1', port=int(sys.argv[2]), print=None)"
    )
    with _serving("-c", serve, str(folder)) as address:
        yield address


@contextmanager
def _serving(*command: str, program: tuple[str, ...] = (sys.executable,)) -> Iterator[str]:
    """A process, of Python by default, that serves at the port that ends its command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*program, *command, str(port)], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _listens(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def files(endpoint: str) -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False)


def upload(endpoint: str, folder: Path, name: str) -> str:
    """Puts a folder into the bucket; its URL."""
    url = f"s3://{BUCKET}/{name}"
    files(endpoint).put(f"{folder}/", f"{url}/", recursive=True)
    return url


class CuttingProxy:
    """Passes bytes on to a server, and cuts each connection after so many bytes of answers.

    cut_after: bytes; None: never. stalled: connections are taken and nothing is answered.
    stall_after: bytes of answers over one connection after which it is so; None: never.
    cuts: connections that were cut. asked: a request came that is not answered.
    """

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self.cut_after: int | None = None
        self.stalled = False
        self.stall_after: int | None = None
        self.cuts = 0
        self.asked = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self) -> None:
        """Answers the requests that come from now on."""
        self.stalled = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            asking = threading.Thread(target=self._pass, args=(client, server, False), daemon=True)
            asking.start()
            self._pass(server, client, True)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while data := source.recv(16384):
                if self.stalled and not answers:
                    self.asked.set()
                    continue
                if answers and self.cut_after is not None and passed + len(data) > self.cut_after:
                    sink.sendall(data[: max(0, self.cut_after - passed)])
                    self.cuts += 1
                    return
                passed += len(data)
                if answers and self.stall_after is not None and passed > self.stall_after:
                    self.stalled = True
                    self.asked.set()
                    continue
                sink.sendall(data)
        except OSError:
            return

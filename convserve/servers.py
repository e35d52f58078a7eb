"""`convserve.Server`: a server for as long as a `with` block, or a notebook, needs it.

It is the process of `convserve serve`, and a thread of this one looks after it. In a thread of this
process it would not be clean: grpc.aio has one poller a process, which hands events of the server
to the event loop of a client, also once that is closed; the server sets Python's collector, its
switching of threads and the allocator for the whole process; it would share the GIL with whoever
measures it; and an engine that crashes would take the notebook along.
"""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from serving.base.errors import InvalidInput
from serving.base.folders import visible_folders
from serving.base.storage.address import is_url
from serving.client import VisionClient
from serving.models.catalogue import WAITING, State
from serving.server.config import ServerConfig, StartError
from serving.server.config_sources import ConfigError, load_config

# Lines of the log that are kept, some 300 bytes each.
_LINES = 1000
# Seconds between two looks whether a server is ready. Shorter finds it sooner, and asks more often.
_LOOK_SECONDS = 0.05
# Seconds that the process may take to end, beside its drain_seconds, before it is killed.
_END_SECONDS = 5.0
# Addresses by which a server that listens on all of them is called.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PORTS = ("grpc_port", "http_port", "metrics_port")
_PROGRAM = """\
import sys
from serving.base.machine.children import end_with_parent
end_with_parent(int(sys.argv.pop(1)))
from convserve.__main__ import main
main()
"""


class Server:
    """Serves the models of a repository, on free ports of this machine.

        with convserve.Server("model_repo") as server, server.client() as client:
            client.classify("flowers", "daisy.jpg")

    model_repository: a folder with a folder a model, a URL (s3://, gs://, az://, https://), or
        several of them.
    settings: those of `convserve serve`, by the names of its file: `engine="openvino"`,
        `grpc_port=8001`. CONVSERVE_... in the environment counts too.

    The server ends with the block, with `stop`, and with this process, however that ends. Raises
    StartError for a setting that cannot be used.
    """

    def __init__(
        self,
        model_repository: str | PathLike[str] | Sequence[str | PathLike[str]],
        **settings: Any,
    ) -> None:
        if isinstance(model_repository, str | PathLike):
            model_repository = [model_repository]
        unknown = sorted(set(settings) - set(ServerConfig.model_fields))
        if unknown:
            raise StartError(f"{unknown[0]}: no setting of `convserve serve`")
        given = dict.fromkeys(_PORTS, 0) | settings
        given["model_repository"] = [os.fspath(one) for one in model_repository]
        try:
            self._config = load_config(given)
        except ConfigError as error:
            raise StartError(str(error)) from error
        self._flags = [word for name in given for word in _words(name, getattr(self._config, name))]
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._changed = threading.Condition()
        self._log: deque[str] = deque(maxlen=_LINES)
        self._listens: dict[str, Any] = {}
        self._ended = True

    def start(self, timeout: float = 120.0) -> "Server":
        """Starts the server and waits until it is ready, or with model_control="explicit" until it
        listens: `timeout` seconds at most. Raises StartError where it does not come so far, and
        leaves nothing running then."""
        if not self._ended:
            raise StartError("the server runs already")
        self._require_models()
        end = time.monotonic() + timeout
        self._log.clear()
        self._listens, self._process, self._ended = {}, None, False
        self._watcher = threading.Thread(target=self._watch, name="convserve-server", daemon=True)
        self._watcher.start()
        try:
            self._wait_until_listening(end)
            if self._config.model_control != "explicit":
                self._wait_until_ready(end)
        except BaseException:
            self._kill()
            raise
        return self

    def stop(self) -> None:
        """Lets the server finish the calls that it has accepted, and ends it. One that does not run
        is left alone."""
        process, watcher = self._process, self._watcher
        if process is None or watcher is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        watcher.join(self._config.drain_seconds + _END_SECONDS)
        self._kill()

    def __enter__(self) -> "Server":
        return self if self._listens and not self._ended else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC, which a client takes. Raises StartError where no server runs."""
        return self._address("grpc_port")

    @property
    def http_address(self) -> str:
        """The address of REST and the console: http://HOST:PORT, or https:// with TLS."""
        return f"{self._scheme}://{self._address('http_port')}"

    @property
    def metrics_address(self) -> str:
        """The address of /metrics: http://HOST:PORT/metrics, or https:// with TLS."""
        return f"{self._scheme}://{self._address('metrics_port')}/metrics"

    @property
    def ready(self) -> bool:
        """Whether it serves: a model at least, and none is loading."""
        return not self._ended and bool(self._listens) and self._probe()[0] == 200

    @property
    def log(self) -> list[str]:
        """The last lines of its log, JSON objects, the newest last."""
        with self._changed:
            return list(self._log)

    def client(self, **options: Any) -> VisionClient:
        """A client of it; `options` are those of `convserve.Client`."""
        return VisionClient(self.address, **options)

    def __repr__(self) -> str:
        if self._ended or not self._listens:
            return "<convserve.Server: stopped>"
        return f"<convserve.Server {self.address}: {'ready' if self.ready else 'not ready'}>"

    def _require_models(self) -> None:
        """Raises StartError where the repositories are empty folders, of which a server would wait
        to become ready for ever."""
        addresses = self._config.model_repository
        if self._config.model_control != "none" or any(map(is_url, addresses)):
            return
        folders = [Path(address) for address in addresses]
        try:
            found = any(map(visible_folders, folders))
        except InvalidInput:  # the server says what is wrong with it
            return
        if not found:
            raise StartError(f"{', '.join(addresses)}: holds no model")

    def _watch(self) -> None:
        """Runs the process: it ends with the thread that starts it."""
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(os.getpid()), "serve", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="backslashreplace",
                start_new_session=True,  # Ctrl-C in this process is not meant for it
            )
        except OSError as error:
            self._took(f"convserve: {error}")
        else:
            with self._changed:
                self._process = process
            with process:
                for line in process.stderr or ():
                    self._took(line.rstrip("\n"))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _took(self, line: str) -> None:
        with self._changed:
            self._log.append(line)
            if not self._listens and '"listening"' in line:
                self._listens = json.loads(line)
            self._changed.notify_all()

    def _wait_until_listening(self, end: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._listens) or self._ended, timeout=end - time.monotonic()
            )
        if not self._listens:
            raise StartError(self._last_words())

    def _wait_until_ready(self, end: float) -> None:
        while True:
            status, text = self._probe()
            if status == 200:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._ended, timeout=_LOOK_SECONDS)
            if self._ended:
                raise StartError(self._last_words())
            failed = _failures(text)
            if failed or time.monotonic() > end:
                raise StartError(failed or f"not ready in time: {' '.join(text.split())}")

    def _last_words(self) -> str:
        lines = [line for line in self.log if line]
        return lines[-1].removeprefix("convserve: ") if lines else "the server said nothing in time"

    def _probe(self) -> tuple[int, str]:
        """Status and text of /readyz. On the metrics port, which asks for no certificate."""
        host, port = self._host, self._listens["metrics_port"]
        if self._listens["tls"]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # Its own child on this machine, of which a status is all that is taken.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=5, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    @property
    def _host(self) -> str:
        return _ANY.get(self._config.host, self._config.host)

    @property
    def _scheme(self) -> str:
        return "https" if self._listens.get("tls") else "http"

    def _address(self, port: str) -> str:
        if self._ended or not self._listens:
            raise StartError("the server does not run")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._listens[port]}"

    def _kill(self) -> None:
        """Ends the process whatever it does, and waits for its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._ended)
        if self._process is not None:
            self._process.kill()
        if self._watcher is not None:
            self._watcher.join()


def _words(name: str, value: Any) -> list[str]:
    """A setting as words of the command line."""
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list | tuple):
        return [word for one in value for word in (flag, str(one))]
    return [flag, str(value)]


def _failures(text: str) -> str:
    """The models that could not be loaded, once none is left to wait for; else nothing."""
    lines = text.splitlines()[1:]
    states = [line.partition(": ")[2].partition(" ") for line in lines]
    over = all(
        state == State.UNAVAILABLE and reason and WAITING not in reason
        for state, _, reason in states
    )
    return "; ".join(lines) if lines and over else ""

"""A real server process and what a test asks of it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
TOKEN = "token-of-the-tests"


def token_flags(folder: Path) -> tuple[str, ...]:
    """Flags of a server that takes admin calls by TOKEN, and system shared memory."""
    file = folder / "admin-token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    token = ("--admin", "token", "--admin-token-file", str(file))
    return (*token, "--shared-memory", "convserve")


class ServerProcess:
    """`convserve serve` on free ports; its log lines are kept, parsed.

    prefix: words before its command, such as those of a program that limits it and becomes it.
    context: TLS of a client that it takes, where it has TLS.
    """

    def __init__(
        self,
        repository: Path | str,
        *flags: str,
        cache: Path,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.context = context
        command = [*prefix, sys.executable, "-m", "convserve", "serve"]
        command += ["--model-repository", str(repository), "--cache-dir", str(cache)]
        for port in ("grpc", "http", "metrics"):
            command += [f"--{port}-port", "0"]
        self.process = subprocess.Popen(
            [*command, *flags],
            stderr=subprocess.PIPE,
            text=True,
            # A server that is killed leaves its temporary files in the folder of the tests.
            env={
                **(env or os.environ),
                "PYTHONUNBUFFERED": "1",
                "TMPDIR": str(cache.parent),
                "XDG_RUNTIME_DIR": str(cache.parent),
            },
        )
        self.log: list[dict[str, Any]] = []
        self._lines = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started = self.wait_for_log("listening")
        self.url = f"127.0.0.1:{started['grpc_port']}"
        scheme = "https" if started.get("tls") else "http"
        self.http = f"{scheme}://127.0.0.1:{started['http_port']}"
        # The admin sockets: a gRPC target and a path; empty with --admin off.
        folder = started.get("admin_socket", "")
        self.admin = f"unix:{folder}/grpc.sock" if folder else ""
        self.admin_http = f"{folder}/http.sock" if folder else ""
        self.metrics_url = f"{scheme}://127.0.0.1:{started['metrics_port']}/metrics"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._lines:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"message": line})
                self._lines.notify_all()

    def wait_for_log(self, message: str, **fields: str) -> dict[str, Any]:
        """The first line of the log with this message and these fields."""

        def found() -> dict[str, Any] | None:
            for line in self.log:
                if line.get("message") == message and fields.items() <= line.items():
                    return line
            return None

        with self._lines:
            self._lines.wait_for(
                lambda: found() or self.process.poll() is not None, timeout=START_SECONDS
            )
            line = found()
        assert line is not None, f"no {message!r} in {self.log}"
        return line

    def get(self, url: str) -> tuple[int, str]:
        """Status and text of an HTTP answer."""
        try:
            with urllib.request.urlopen(url, timeout=10, context=self.context) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_ready(self, seconds: float = START_SECONDS) -> "ServerProcess":
        """Returns when /readyz says so."""
        end = time.monotonic() + seconds
        status, text = self.get(f"{self.http}/readyz")
        while status != 200:
            assert time.monotonic() < end, text
            assert self.process.poll() is None, self.log
            time.sleep(0.02)  # between two looks at a condition that no event tells of
            status, text = self.get(f"{self.http}/readyz")
        return self

    def chosen(self) -> dict[str, tuple[str, str]]:
        """Variant and engine by the name of each model that has become ready."""
        return {
            line["model"]: (line["variant"], line["engine"])
            for line in self.log
            if line.get("message") == "model ready"
        }

    def metric(self, sample: str) -> float:
        """The value of one sample of /metrics, labels included in its name."""
        _, text = self.get(self.metrics_url)
        values = [line.split()[-1] for line in text.splitlines() if line.startswith(sample + " ")]
        assert len(values) == 1, f"{sample}: {text}"
        return float(values[0])

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit status, once the process has ended and its log is read."""
        status = self.process.wait(timeout=START_SECONDS)
        self._reader.join(timeout=START_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def kill(self) -> None:
        """Ends the process if a test has not."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

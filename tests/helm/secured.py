"""A server that knows its callers by certificates and keys, and its metrics port over TLS."""

import contextlib
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path

from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.helm.chart import AUTH_VALUES, only, render
from tests.support.certified import Certified
from tests.support.process import ServerProcess


class Site:
    """A server with TLS, certificates of callers, keys and the policy of the values."""

    def __init__(self, folder: Path, repository: Path, cache: Path) -> None:
        self.made = Certified(folder / "tls")
        self.made.renew("rel-convserve.default.svc", "127.0.0.1")
        self.key, keys, policy = folder / "api-key", folder / "keys", folder / "policy.yaml"
        self.key.write_text(new_key())
        keys.write_text(ApiKey("checks", digest_of(self.key.read_text())).line() + "\n")
        resources = render(AUTH_VALUES)
        policy.write_text(
            only(resources, "ConfigMap", "rel-convserve-policy")["data"]["policy.yaml"]
        )
        self.access = ("--api-keys", str(keys), "--policy", str(policy))
        self.folder, self.repository, self.cache = folder, repository, cache

    def start(self, *flags: str) -> ServerProcess:
        context = self.made.tls.context() if "--tls-cert" in flags else None
        return ServerProcess(
            self.repository, *flags, *self.access, cache=self.cache, context=context
        )

    def arguments(self, words: list[str], server: ServerProcess) -> list[str]:
        """Those of a container, with the files and the address that are here."""
        here = {
            "/etc/convserve-ca/ca.crt": str(self.made.ca),
            "/etc/convserve-client/tls.crt": str(self.made.tls.cert),
            "/etc/convserve-client/tls.key": str(self.made.tls.key),
            "/etc/convserve-caller/api-key": str(self.key),
            "rel-convserve:8001": server.url,
        }
        return [here.get(word, word) for word in words]


def port_of(server: ServerProcess) -> int:
    """The port of a server's metrics."""
    return int(server.metrics_url.removesuffix("/metrics").rpartition(":")[2])


def status(
    server: ServerProcess,
    path: str,
    context: ssl.SSLContext,
    headers: Mapping[str, str] | None = None,
) -> int:
    """HTTP status of a GET from the metrics port of a server."""
    address = ("127.0.0.1", port_of(server))
    connection = http.client.HTTPSConnection(*address, context=context, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status

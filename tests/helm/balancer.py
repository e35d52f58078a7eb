"""A real Envoy in front of servers of a test, set up as the documentation says."""

import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.helm.tools import CHART, ROOT, free_ports, program, succeed

START_SECONDS = 30.0
# The file that compose.yaml gives to Envoy, and the one for a release of the chart; only addresses,
# ports and folders are changed for a test.
CONFIG = ROOT / "monitoring" / "envoy.yaml"
TLS_CONFIG = CHART / "examples" / "envoy.yaml"


class Envoy:
    """Balances calls over servers.

    config_text: its configuration, by default that of compose.yaml.
    """

    def __init__(self, folder: Path, servers: Sequence[str], config_text: str = "") -> None:
        port, admin_port = free_ports(2)
        config = yaml.safe_load(config_text or CONFIG.read_text())
        resources = config["static_resources"]
        resources["listeners"][0]["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": port,
        }
        config["admin"]["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": admin_port,
        }
        cluster = resources["clusters"][0]
        cluster["type"] = "STATIC"
        cluster["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [_endpoint(server) for server in servers]}
        ]
        file = folder / "envoy.yaml"
        file.write_text(yaml.safe_dump(config))
        succeed([program("envoy"), "--mode", "validate", "--log-level", "error", "-c", str(file)])
        self.url = f"127.0.0.1:{port}"
        self._admin = f"http://127.0.0.1:{admin_port}"
        self._log = (folder / "envoy.log").open("w")
        command = [program("envoy"), "-c", str(file), "--concurrency", "1"]
        # Its shared memory is named by this number; two tests at once must not meet.
        command += ["--base-id", str(port), "--log-level", "warning"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._wait_healthy(len(servers))

    def _wait_healthy(self, servers: int) -> None:
        end = time.monotonic() + START_SECONDS
        while self.healthy() != servers:
            assert time.monotonic() < end, Path(self._log.name).read_text()
            time.sleep(0.1)  # between two looks at a condition that no event tells of

    def healthy(self) -> int:
        """Servers that pass the health check."""
        try:
            with urllib.request.urlopen(f"{self._admin}/stats?filter=membership_healthy") as stats:
                return int(stats.read().decode().split(":")[1])
        except (OSError, IndexError):
            return -1

    def under_way(self, server: str) -> int:
        """Calls that a server has and has not answered."""
        with urllib.request.urlopen(f"{self._admin}/clusters") as clusters:
            lines = clusters.read().decode().splitlines()
        [found] = [line for line in lines if f"::{server}::rq_active::" in line]
        return int(found.rpartition("::")[2])

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait(timeout=START_SECONDS)
        self._log.close()


def _endpoint(server: str) -> dict[str, object]:
    host, port = server.split(":")
    address = {"socket_address": {"address": host, "port_value": int(port)}}
    return {"endpoint": {"address": address}}

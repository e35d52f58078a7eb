"""A real Prometheus that scrapes servers of a test."""

import json
import math
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.helm.tools import free_ports, program

START_SECONDS = 30.0
Series = dict[str, Any]


class Prometheus:
    """Scrapes every second and evaluates the rules that the chart ships."""

    def __init__(self, folder: Path, metrics_urls: Sequence[str], rules: Path) -> None:
        [port] = free_ports(1)
        targets = [urllib.parse.urlsplit(url).netloc for url in metrics_urls]
        self.url = f"http://127.0.0.1:{port}"
        config = folder / "prometheus.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(rules)],
                    "scrape_configs": [
                        {"job_name": "convserve", "static_configs": [{"targets": targets}]}
                    ],
                }
            )
        )
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def wait_for(self, query: str) -> "Prometheus":
        """Returns when a query has an answer."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.query(query):
                    return self
            except OSError:
                pass
            assert time.monotonic() < end, f"{query}: {Path(self._log.name).read_text()}"
            time.sleep(0.2)  # between two looks at a condition that no event tells of

    def query(self, query: str) -> list[Series]:
        """The series of an instant query that are numbers."""
        result: list[Series] = self._get("query", query=query)
        return [one for one in result if not math.isnan(float(one["value"][1]))]

    def query_range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a query over a time (seconds since the epoch)."""
        result: list[Series] = self._get(
            "query_range", query=query, start=str(start), end=str(end), step=str(step)
        )
        return result

    def _get(self, endpoint: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]["result"]

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait(timeout=START_SECONDS)
        self._log.close()

"""Metrics, rules and dashboard: as the chart renders them, and with a real Prometheus."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc
from tests.helm.chart import only, render
from tests.helm.load import Load
from tests.helm.picture import draw
from tests.helm.prometheus import Prometheus
from tests.helm.tools import CHART, ROOT, program, run, succeed
from tests.support.certified import Certified
from tests.support.process import ServerProcess

RULES = CHART / "files" / "rules.yaml"
RULE_TESTS = Path(__file__).parent / "rules_test.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
LOAD_SECONDS = 20
# Longer than two scrapes, shorter than the load.
RATE_INTERVAL = "10s"
# Set to a path, it keeps the picture that the documentation shows.
PICTURE = os.environ.get("CONVSERVE_METRICS_PICTURE", "")


def rules() -> list[dict[str, Any]]:
    """Every rule, of all groups."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def loaded_server(colours: Path, cache: Path) -> Iterator[ServerProcess]:
    """A server under load, some of which it must refuse."""
    running = ServerProcess(colours, "--memory-mib", "5", cache=cache).wait_ready()
    load = Load(running.url, threads=3)
    stopped = threading.Event()
    senders = [threading.Thread(target=_send_too_much, args=(running.url, stopped)) for _ in "abc"]
    for sender in senders:
        sender.start()
    yield running
    stopped.set()
    for sender in senders:
        sender.join()
    load.stop()
    running.kill()


def _send_too_much(url: str, stopped: threading.Event) -> None:
    """Calls of which the server may hold one at a time."""
    pixels = np.zeros((1000, 1000, 3), np.uint8).tobytes()
    image = pb.Image(raw=pb.RawImage(height=1000, width=1000, rgb=pixels))
    request = pb.ClassifyRequest(model="colours", images=[image])
    with grpc.insecure_channel(url) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)
        while not stopped.wait(0.002):
            with contextlib.suppress(grpc.RpcError):
                stub.Classify(request, timeout=10)


@pytest.fixture(scope="module")
def prometheus(
    loaded_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Has scraped the loaded server for a while."""
    folder = tmp_path_factory.mktemp("prometheus")
    running = Prometheus(folder, [loaded_server.metrics_url], RULES)
    running.wait_for("up == 1")
    time.sleep(LOAD_SECONDS)  # the load goes on meanwhile; rates need a history
    yield running
    running.stop()


def test_monitoring_scrapes_each_pod_once() -> None:
    resources = render("serviceMonitor.enabled=true")
    selector = only(resources, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    services = [one for one in resources if one["kind"] == "Service"]
    found = [one for one in services if selector <= one["metadata"]["labels"].items()]
    assert len(services) == 2
    assert len(found) == 1


def test_objectives_reach_the_rules() -> None:
    rule = only(render(CHART / "ci" / "keda-gateway-values.yaml"), "PrometheusRule")
    text = json.dumps(rule["spec"])
    assert "vector(0.9995)" in text
    assert 'le=\\"0.05\\"' in text
    # What is meant for Prometheus passes Helm untouched.
    assert "{{ $labels.model }}" in text
    source = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert [len(group["rules"]) for group in rule["spec"]["groups"]] == [
        len(group["rules"]) for group in source["groups"]
    ]


def test_rules_are_valid() -> None:
    succeed([program("promtool"), "check", "rules", str(RULES)])


def test_alerts_fire_when_they_should_and_only_then() -> None:
    succeed([program("promtool"), "test", "rules", str(RULE_TESTS)])


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {
        one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]
    }
    assert fired == alerts
    headings = {
        line.removeprefix("## ").strip()
        for line in (ROOT / "docs" / "operations" / "runbook.md").read_text().splitlines()
        if line.startswith("## ")
    }
    assert alerts <= headings


def test_metrics_pass_the_linter_but_for_the_names_of_triton(loaded_server: ServerProcess) -> None:
    _, text = loaded_server.get(loaded_server.metrics_url)
    done = run(program("promtool"), "check", "metrics", stdin=text)
    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if line and not line.startswith("nv_inference_")] == []


def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) >= 15
    empty = []
    for query in queries:
        query = query.replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*")
        if not prometheus.query(query):
            empty.append(query)
    assert not empty


def test_every_recording_rule_returns_data(prometheus: Prometheus) -> None:
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert [name for name in recorded if not prometheus.query(name)] == []


@pytest.fixture
def declared(colours: Path, cache: Path, tmp_path: Path) -> set[str]:
    """Names that a server with TLS and a repository behind a URL exports, also those of which it
    has nothing to tell yet."""
    made = Certified(tmp_path / "tls")
    context = made.trusting.context()
    flags = (*made.flags(), "--model-repository", "memory://nothing/models")
    running = ServerProcess(colours, *flags, cache=cache, context=context)
    _, text = running.get(running.metrics_url)
    running.kill()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def test_every_metric_of_ours_in_an_alert_exists(
    prometheus: Prometheus, declared: set[str]
) -> None:
    """An alert on a metric that nobody exports never fires, and nobody notices."""
    for rule in (one for one in rules() if "alert" in one):
        words = rule["expr"].replace("(", " ").replace("{", " ").replace("[", " ").split()
        for name in {word.rstrip(")") for word in words if word.startswith("convserve")}:
            assert name in declared or prometheus.query(name), f"{rule['alert']}: {name}"


def test_autoscaler_reads_the_queue_time(prometheus: Prometheus) -> None:
    scaled = only(render("keda.enabled=true"), "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"].replace("[1m]", f"[{RATE_INTERVAL}]")
    # What a ServiceMonitor adds inside a cluster.
    for label in (',namespace="default"', ',service="rel-convserve"'):
        assert label in query
        query = query.replace(label, "")
    [sample] = prometheus.query(query)
    assert 0 < float(sample["value"][1]) < 1
    [idle] = prometheus.query(query.replace('stage="queue"', 'stage="none"'))
    assert float(idle["value"][1]) == 0


def test_picture_of_the_metrics_shows_the_load(prometheus: Prometheus, tmp_path: Path) -> None:
    file = Path(PICTURE) if PICTURE else tmp_path / "metrics.png"
    dashboard = json.loads(DASHBOARD.read_text())
    lines = draw(prometheus, dashboard, RATE_INTERVAL, LOAD_SECONDS, file)
    assert lines >= 10
    assert file.stat().st_size > 10_000

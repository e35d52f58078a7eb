"""Kubelets and Docker, which have neither certificate nor key, learn whether a server is healthy:
the probes of the chart and the image's health check, asked of real servers."""

import json
import ssl
import sys
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helm.chart import AUTH_VALUES, TLS_VALUES, kserve_pod, only, pod_of, render
from tests.helm.secured import Site, port_of, status
from tests.helm.tools import ROOT, free_ports, run, succeed
from tests.support.process import ServerProcess

METRICS = "CONVSERVE_METRICS_PORT"


def probes_of(container: Mapping[str, Any]) -> dict[str, Any]:
    return {name: probe for name, probe in container.items() if name.endswith("Probe")}


@pytest.mark.parametrize("control", ["none", "explicit"])
@pytest.mark.parametrize("mode", ["deployment", "kserve"])
@pytest.mark.parametrize("auth", ["", "auth.apiKeysSecret=a,auth.policyConfigMap=a"])
@pytest.mark.parametrize(
    "tls",
    [
        "",
        "tls.secretName=a",
        "tls.secretName=a,tls.clientAuth=optional",
        "tls.secretName=a,tls.clientAuth=require,tls.clientSecretName=b",
    ],
)
def test_probes_are_what_a_kubelet_can_ask(tls: str, auth: str, mode: str, control: str) -> None:
    """It has neither a certificate nor a key, and asks gRPC without TLS alone."""
    values = [one for one in (tls, auth) if one]
    resources = render(*values, f"mode={mode}", f"server.modelControl={control}")
    pod = kserve_pod(resources) if mode == "kserve" else only(resources, "Deployment")
    [container] = pod_of(pod)["containers"]
    probes = probes_of(container)
    assert probes.keys() >= {"readinessProbe", "livenessProbe"}
    for name, probe in probes.items():
        live = name == "livenessProbe" or (name == "startupProbe" and control == "explicit")
        if tls:
            asked = probe["httpGet"]
            assert asked.pop("port") == (8002 if mode == "kserve" else "metrics")
            assert asked == {"path": "/livez" if live else "/readyz", "scheme": "HTTPS"}
        else:
            assert probe["grpc"] == {"port": 8001} | ({"service": "live"} if live else {})


def as_kubelet(probe: Mapping[str, Any], server: ServerProcess) -> bool:
    """Whether a kubelet takes the answer for good. It does not look at certificates."""
    if "grpc" in probe:
        with grpc.insecure_channel(server.url) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            return bool(
                stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            )
    context = ssl._create_unverified_context()
    return status(server, probe["httpGet"]["path"], context) == 200


def health_check() -> list[str]:
    """The command by which the image says whether it is healthy."""
    [line] = [
        line.strip().removeprefix("CMD ")
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith('  CMD ["python"')
    ]
    command: list[str] = json.loads(line)
    return command


def test_image_is_not_healthy_where_nothing_serves() -> None:
    [port] = free_ports(1)
    done = run(sys.executable, *health_check()[1:], env={METRICS: str(port)})
    assert (done.returncode, done.stderr) == (1, "")


def test_probes_pass_on_servers_that_know_their_callers(site: Site, secured: ServerProcess) -> None:
    for values, flags in (
        (TLS_VALUES, site.made.mutual()),
        (AUTH_VALUES, None),
        ("auth.apiKeysSecret=a", ()),
    ):
        server = secured if flags is None else site.start(*flags)
        try:
            server.wait_ready()
            [container] = pod_of(only(render(values), "Deployment"))["containers"]
            for name, probe in probes_of(container).items():
                assert as_kubelet(probe, server), (values, name)
            succeed([sys.executable, *health_check()[1:]], env={METRICS: str(port_of(server))})
        finally:
            if server is not secured:
                server.kill()

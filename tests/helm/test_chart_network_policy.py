"""The NetworkPolicy: who reaches the server, what its pods reach, and that the notes of an install
tell it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import AUTH_VALUES, Resource, only, pod_of, render
from tests.helm.tools import CHART, program, succeed

OTHER: dict[str, str] = {"app": "other"}


def admits(policy: Resource, port: str, pod: Mapping[str, str], space: str) -> bool:
    """Whether a pod with these labels, of a namespace, reaches a port, as the API documents it."""

    def chosen(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
        wanted = (selector or {}).get("matchLabels", {})
        return bool(wanted.items() <= labels.items())

    def matches(peer: Mapping[str, Any]) -> bool:
        spaces = peer.get("namespaceSelector")
        named = {"kubernetes.io/metadata.name": space}
        inside = space == "default" if spaces is None else chosen(spaces, named)
        return inside and chosen(peer.get("podSelector"), pod)

    return any(
        port in [one["port"] for one in rule["ports"]]
        and ("from" not in rule or any(map(matches, rule["from"])))
        for rule in policy["spec"]["ingress"]
    )


def egress_of(*values: Path | str) -> list[Any]:
    rules = only(render(*values), "NetworkPolicy")["spec"]["egress"]
    return [one["port"] for rule in rules for one in rule["ports"]]


def test_network_policy_is_on_and_concerns_the_pods_of_the_server_alone() -> None:
    resources = render()
    policy = only(resources, "NetworkPolicy")
    selector = policy["spec"]["podSelector"]["matchLabels"].items()
    pods = {
        one["kind"]: one["spec"].get("template", one)["metadata"]["labels"]
        for one in resources
        if one["kind"] in ("Deployment", "Pod")
    }
    assert [kind for kind, labels in pods.items() if selector <= labels.items()] == ["Deployment"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    # By their names the ports are those of the container.
    [container] = pod_of(only(resources, "Deployment"))["containers"]
    assert {"grpc", "http", "metrics"} == {one["name"] for one in container["ports"]}
    assert not [one for one in render("networkPolicy.enabled=false") if "Network" in one["kind"]]


def test_pods_of_the_namespace_call_and_monitoring_reads_the_metrics() -> None:
    policy = only(render(), "NetworkPolicy")
    for port, space, expected in (
        ("grpc", "default", True),
        ("http", "default", True),
        ("grpc", "elsewhere", False),
        ("metrics", "default", False),
        ("metrics", "elsewhere", False),
        ("metrics", "monitoring", True),
        ("http", "monitoring", False),
    ):
        assert admits(policy, port, OTHER, space) == expected, (port, space)


def test_clients_of_the_values_call_and_so_do_the_tests_of_the_release() -> None:
    resources = render(CHART / "ci" / "keda-gateway-values.yaml")
    policy = only(resources, "NetworkPolicy")
    smoke = only(resources, "Pod")["metadata"]["labels"]
    assert admits(policy, "grpc", smoke, "default")
    assert admits(policy, "grpc", OTHER, "gateways")
    assert not admits(policy, "grpc", OTHER, "default")
    assert admits(policy, "metrics", OTHER, "observability")
    assert not admits(policy, "metrics", OTHER, "monitoring")


@pytest.mark.parametrize(
    "value",
    [
        "service.type=LoadBalancer",
        "service.type=NodePort",
        "ingress.enabled=true,ingress.host=a.example",
        "grpcRoute.enabled=true,grpcRoute.parentRefs[0].name=a",
    ],
)
def test_what_is_opened_to_the_outside_is_reached_from_there(value: str) -> None:
    policy = only(render(value), "NetworkPolicy")
    assert admits(policy, "grpc", OTHER, "elsewhere")
    assert not admits(policy, "metrics", OTHER, "elsewhere")
    named = "networkPolicy.clients[0].podSelector.matchLabels.app=mine"
    assert not admits(only(render(value, named), "NetworkPolicy"), "grpc", OTHER, "elsewhere")


def test_pods_reach_what_the_values_name_and_nothing_else() -> None:
    assert egress_of() == []
    jwt = "auth.jwt.issuer=a,auth.jwt.audience=b,auth.jwt.jwksUrl="
    assert egress_of(f"{jwt}https://login.example.com/keys") == [53, 53, 443]
    assert egress_of(f"{jwt}http://login.example.com/keys") == [53, 53, 80]
    assert egress_of(f"{jwt}http://[fd00::1]:5556/keys?a=:1") == [53, 53, 5556]
    sync = CHART / "ci" / "keda-gateway-values.yaml"
    # Each port once.
    assert egress_of(sync, f"{jwt}https://login.example.com/keys") == [53, 53, 443, 4317]
    otel = "otel.endpoint=http://collector.monitoring:4318"
    stores = "models.source=url,models.url.addresses={s3://bucket/a,https://a.example:9000}"
    assert egress_of(otel, stores) == [53, 53, 4318, 443, 9000]
    assert egress_of("networkPolicy.egress[0].ports[0].port=9000") == [53, 53, 9000]


def test_notes_say_who_reaches_the_server() -> None:
    def notes(*values: str) -> str:
        command = [program("helm"), "install", "rel", str(CHART), "--dry-run=client", *values]
        return succeed(command).partition("NOTES:")[2]

    assert "Pods of the namespace default reach it" in notes()
    assert "Every network reaches it" in notes("--set", "service.type=LoadBalancer")
    assert "Every network reaches it" in notes("--set", "networkPolicy.enabled=false")
    assert "All who reach it may infer" in notes("--set", "mode=kserve")
    assert "All who reach it may infer" not in notes("--values", str(AUTH_VALUES))
    assert "https://rel-convserve.default.svc:8000" in notes("--set", "tls.secretName=a")
    assert "http://rel-convserve.default.svc:8000" in notes()
    assert "may change it" in notes("--set", "server.adminOpen=repository")
    assert "may change it" not in notes()

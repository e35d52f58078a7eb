"""What the chart renders passes the linter of Helm, the schemas of Kubernetes and of custom
resources, a review of its pods' rights, and trivy."""

import json
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import (
    KINDS_WITH_PODS,
    KUBERNETES,
    VALUES_FILES,
    Resource,
    pod_of,
    render,
    render_text,
)
from tests.helm.tools import CHART, TOOLS, program, run, succeed

GOLDEN = Path(__file__).parent / "golden" / "pods.yaml"
# What kubernetes-validate knows no schema of; ServingRuntime has none anywhere.
CUSTOM_KINDS = {"GRPCRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor", "ServingRuntime"}

each_values = pytest.mark.parametrize("values", VALUES_FILES, ids=lambda file: file.stem)
each_kubernetes = pytest.mark.parametrize("kubernetes", KUBERNETES)


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@each_values
def test_lint_is_clean(helm: str, values: Path) -> None:
    succeed([program(helm), "lint", "--strict", str(CHART), "--values", str(values)])


@each_values
def test_both_versions_of_helm_render_the_same(values: Path) -> None:
    assert render_text(values) == render_text(values, helm="helm3")


@each_kubernetes
@each_values
def test_resources_are_valid(values: Path, kubernetes: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(render_text(values, kubernetes=kubernetes))
    done = run(program("kubernetes-validate"), "--strict", "-k", kubernetes, str(file))
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    unknown = {line.split("kind ")[1].split()[0] for line in report.splitlines() if "WARN" in line}
    assert unknown <= CUSTOM_KINDS


@each_values
def test_custom_resources_fit_their_schemas(values: Path) -> None:
    custom = [
        one
        for one in render(values)
        if one["kind"] in CUSTOM_KINDS and one["kind"] != "ServingRuntime"
    ]
    script = Path(__file__).parent / "validate.mjs"
    command = [program("node"), str(script), str(TOOLS)]
    assert json.loads(succeed(command, stdin=json.dumps(custom))) == []


def test_every_custom_kind_is_rendered_by_some_install() -> None:
    assert {one["kind"] for file in VALUES_FILES for one in render(file)} >= CUSTOM_KINDS


def test_pods_have_the_rights_and_probes_that_were_reviewed() -> None:
    """Whoever changes these sees it here; the file is then changed by hand."""
    found = {}
    for file in VALUES_FILES:
        for one in render(file):
            if one["kind"] in KINDS_WITH_PODS:
                found[f"{file.stem}: {one['kind']} {one['metadata']['name']}"] = summary(one)
    assert found == yaml.safe_load(GOLDEN.read_text())


def summary(resource: Resource) -> dict[str, object]:
    """What makes a pod safe, and what decides whether it gets calls."""
    pod = pod_of(resource)
    containers = {}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        probes = {
            name: sorted(set(container[name]) & {"grpc", "httpGet"})[0]
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
            if name in container
        }
        context = container["securityContext"]
        containers[container["name"]] = {
            "read-only root": context["readOnlyRootFilesystem"],
            "may gain rights": context["allowPrivilegeEscalation"],
            "capabilities": context["capabilities"],
            **probes,
        }
    return {
        "user": pod["securityContext"]["runAsUser"],
        "never root": pod["securityContext"]["runAsNonRoot"],
        "seccomp": pod["securityContext"]["seccompProfile"]["type"],
        "token mounted": pod["automountServiceAccountToken"],
        "grace": pod.get("terminationGracePeriodSeconds"),
        "containers": containers,
    }


def test_trivy_finds_no_misconfiguration() -> None:
    command = [program("trivy"), "config", "--skip-check-update", "--quiet", "--format", "json"]
    # Without a version of its own trivy skips charts that ask for one.
    command += ["--helm-kube-version", "1.34.0", str(CHART)]
    report = json.loads(succeed(command))
    assert any("deployment.yaml" in result["Target"] for result in report["Results"])
    found = {
        (result["Target"], one["ID"], one["Message"])
        for result in report["Results"]
        for one in result.get("Misconfigurations", [])
        if one["Severity"] in ("HIGH", "CRITICAL")
    }
    assert not found

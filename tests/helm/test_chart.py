"""The chart: rendered by the real Helm, judged by real validators, its programs run."""

import hashlib
import http.server
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serving.repository.signing.keys import PASSPHRASE_VARIABLE
from serving.server.config_sources import load_config
from serving.server.http.origin import Hosts
from tests.helm.chart import (
    INFERENCE_SERVICE,
    KINDS_WITH_PODS,
    KUBERNETES,
    VALUES_FILES,
    RenderError,
    Resource,
    only,
    pod_of,
    render,
    render_text,
)
from tests.helm.tools import CHART, TOOLS, program, run, succeed
from tests.support.process import ServerProcess

TLS_VALUES = CHART / "ci" / "tls-values.yaml"
GOLDEN = Path(__file__).parent / "golden" / "pods.yaml"
# What kubernetes-validate knows no schema of; ServingRuntime has none anywhere.
CUSTOM_KINDS = {"GRPCRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor", "ServingRuntime"}

ARCHIVE = f"models.source=sync,models.sync.archives[0].sha256={'0' * 64},models.sync.archives[0]."

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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("replcas=3", "replcas"),
        ("server.drainSecond=3", "drainSecond"),
        ("server.modelControl=always", "server/modelControl"),
        ("server.admin=loopback", "server/admin"),
        ("server.admin=token", "server.adminTokenSecret"),
        ("server.adminOpen=files", "server/adminOpen"),
        ("server.adminOpen=memory", "server/adminOpen"),  # of which pods have none
        ("server.console=maybe", "server/console"),
        ("server.httpHosts={a b}", "server/httpHosts"),
        ("server.httpHosts={http://a}", "server/httpHosts"),
        ("replicas=two", "replicas"),
        ("image.digest=latest", "image/digest"),
        ("models.source=bucket", "models/source"),
        ("models.source=sync", "models/sync/archives"),
        ("models.source=url", "models/url/addresses"),
        ("models.source=image", "models/image/reference"),
        ("models.pvc.claimName=", "models/pvc/claimName"),
        ("prometheusRule.latencySeconds=0.07", "prometheusRule/latencySeconds"),
        ("resources.limits.memory=lots", "resources/limits/memory"),
        ("grpcRoute.enabled=true", "grpcRoute/parentRefs"),
        ("tls.clientAuth=optional", "tls/secretName"),
        ("tls.secretName=a,tls.clientAuth=require", "tls/clientSecretName"),
        ("tls.secretName=a,tls.clientAuth=maybe", "tls/clientAuth"),
        ("auth.jwt.issuer=a", "auth/jwt/audience"),
        ("auth.jwt.jwksUrl=https://a/keys", "auth/jwt/jwksUrl"),
        ("auth.jwt.jwksUrl=keys", "auth/jwt/jwksUrl"),
        ("auth.jwt.issuer=a,auth.jwt.audience=b", "auth.jwt: set one of jwksUrl"),
        ("auth.jwt.algorithms={HS256}", "auth/jwt/algorithms"),
        ("auth.audit=on", "auth/audit"),
        ("auth.auditSample=2", "auth/auditSample"),
        ("auth.caller.kind=password", "auth/caller/kind"),
        ("auth.policy=everybody", "auth.policy: expected YAML with the key groups"),
        ("auth.policyConfigMap=a,auth.policy=groups:", "set one of policy and policyConfigMap"),
        ("auth.policyConfigMap=a,server.admin=open", "says who may change the server"),
        ("auth.policyConfigMap=a,server.adminOpen=settings", "says who may change the server"),
        ("networkPolicy.ingress={}", "networkPolicy"),
        # Of a ConfigMap, or of the pods' description, which more may read than a Secret.
        (f"{ARCHIVE}url=https://me:word@a/b.tar.gz", "models/sync/archives/0/url"),
        (f"{ARCHIVE}url=https://a/b.tar.gz?X-Amz-Signature=00", "models/sync/archives/0/url"),
        ("otel.endpoint=http://me:word@collector:4318", "otel/endpoint"),
        ("auth.jwt.jwksUrl=https://me:word@a/keys", "auth/jwt/jwksUrl"),
        ("keda.serverAddress=http://me:word@prometheus", "keda/serverAddress"),
        ("ingress.enabled=true", "ingress/host"),
        ("loadtest.enabled=true", "loadtest/model"),
        ("build.enabled=true", "build/recipe"),
        ("autoscaling.enabled=true,keda.enabled=true", "enable one"),
        (
            "autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=0",
            "set targetCPUUtilizationPercentage or metrics",
        ),
    ],
)
@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_wrong_values_are_refused_by_name(value: str, message: str, helm: str) -> None:
    with pytest.raises(RenderError) as refused:
        render_text(value, helm=helm)
    # The two versions write the place of a wrong value as a/b and as a.b.
    assert message in str(refused.value).replace(".", "/") or message in str(refused.value)


def test_old_clusters_are_refused() -> None:
    with pytest.raises(RenderError, match="kubeVersion"):
        render_text(kubernetes="1.26.0")


def test_image_volumes_need_a_cluster_that_has_them() -> None:
    values = ("models.source=image", "models.image.reference=models:1")
    with pytest.raises(RenderError, match=r"image volumes need Kubernetes 1\.31"):
        render_text(*values, kubernetes="1.30.0")
    pod = pod_of(only(render(*values), "Deployment"))
    [volume] = [one for one in pod["volumes"] if one["name"] == "models"]
    assert volume["image"] == {"reference": "models:1", "pullPolicy": "IfNotPresent"}


def test_clusters_without_the_sleep_action_wait_all_the_same() -> None:
    for kubernetes, action in (("1.29.0", "exec"), ("1.30.0", "sleep")):
        [server] = pod_of(only(render(kubernetes=kubernetes), "Deployment"))["containers"]
        assert list(server["lifecycle"]["preStop"]) == [action]


def test_server_reads_the_settings_that_the_chart_writes(tmp_path: Path) -> None:
    settings = {
        "server.modelControl": "poll",
        "server.pollSeconds": "3",
        "server.variant": "fp32",
        "server.drainSeconds": "12",
        "server.maxImagePixels": "120000000",
        "server.strictReadiness": "true",
    }
    resources = render(*(f"{key}={value}" for key, value in settings.items()))
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    assert (config.model_control, config.poll_seconds, config.variant) == ("poll", 3, "fp32")
    assert (config.drain_seconds, config.max_image_pixels) == (12, 120_000_000)
    assert config.strict_readiness
    assert config.admin == "socket"


@pytest.mark.parametrize("shown", [True, False])
def test_pods_show_the_console_unless_the_values_take_it_off(shown: bool, tmp_path: Path) -> None:
    values = () if shown else ("server.console=false",)
    file = tmp_path / "server.yaml"
    file.write_text(only(render(*values), "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    [runtime] = only(render("mode=kserve", *values), "ServingRuntime")["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in runtime["env"]}
    assert (config.console, variables["CONVSERVE_CONSOLE"]) == (shown, str(shown).lower())


def test_pods_follow_the_stores_of_their_models() -> None:
    resources = render(
        "models.source=url",
        "models.url.addresses={s3://bucket/models,gs://other/models}",
        "models.url.secretName=store",
        "models.url.cacheMib=2000000",
    )
    [container] = pod_of(only(resources, "Deployment"))["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    config = load_config({}, {one["name"]: one["value"] for one in container["env"]})
    assert config.model_repository == ("s3://bucket/models", "gs://other/models")
    assert config.repository_cache_mib == 2_000_000
    with pytest.raises(RenderError, match="models/url/addresses"):
        render("models.source=url", "models.url.addresses={s3://me:secret@bucket/models}")


def test_pods_know_their_collector_where_there_is_one(tmp_path: Path) -> None:
    wanted = tmp_path / "values.yaml"
    wanted.write_text("otel: {endpoint: 'http://collector.monitoring:4318', ratio: 0.5}")
    expected = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318",
        "OTEL_SERVICE_NAME": "rel-convserve",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=default,k8s.pod.name=$(POD_NAME)",
    }
    resources = render(wanted)
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    assert load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file).otel
    server = pod_of(only(resources, "Deployment"))["containers"][0]
    runtime = only(render(wanted, "mode=kserve"), "ServingRuntime")["spec"]["containers"][0]
    assert {"name": "CONVSERVE_OTEL", "value": "true"} in runtime["env"]
    for container in (server, runtime):
        names = [one["name"] for one in container["env"]]
        # Kubernetes fills in variables that come before.
        assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
        assert (
            expected.items() <= {one["name"]: one.get("value") for one in container["env"]}.items()
        )
    assert "OTEL" not in render_text()


@pytest.mark.parametrize("admin", ["off", "socket", "token", "open"])
def test_pods_have_the_token_of_admin_calls_where_there_is_one(admin: str, tmp_path: Path) -> None:
    resources = render(f"server.admin={admin}", "server.adminTokenSecret=mine")
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    assert config.admin == admin
    pod = pod_of(only(resources, "Deployment"))
    secrets = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    if admin == "token":
        assert secrets == {"admin-token": {"secretName": "mine", "defaultMode": 0o440}}
        assert str(config.admin_token_file) == mounts["admin-token"] + "/token"
    else:
        assert not secrets


def test_pods_have_the_files_of_tls_that_their_settings_name(tmp_path: Path) -> None:
    resources = render(TLS_VALUES)
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    assert config.tls_client_auth == "require"
    pod = pod_of(only(resources, "Deployment"))
    [secret] = [one["secret"] for one in pod["volumes"] if one["name"] == "tls"]
    assert secret == {"secretName": "vision-tls", "defaultMode": 0o440}
    [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "tls"]
    # A file that is mounted by subPath never changes.
    assert mount == {"name": "tls", "mountPath": "/etc/convserve-tls", "readOnly": True}
    files = {str(one) for one in (config.tls_cert, config.tls_key, config.tls_client_ca)}
    assert files == {f"/etc/convserve-tls/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}
    assert "tls" not in json.dumps(only(render(), "Deployment")["spec"])
    assert "tls" not in only(render(), "ConfigMap")["data"]["server.yaml"]


def test_pods_have_the_keys_of_signatures_where_there_are_some(tmp_path: Path) -> None:
    resources = render("models.signersConfigMap=signers")
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    pod = pod_of(only(resources, "Deployment"))
    [volume] = [one for one in pod["volumes"] if one["name"] == "signers"]
    assert volume["configMap"] == {"name": "signers"}
    [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "signers"]
    assert (mount["mountPath"], mount["readOnly"]) == (str(config.require_signature), True)
    assert "signers" not in json.dumps(only(render(), "Deployment")["spec"])
    assert "require_signature" not in only(render(), "ConfigMap")["data"]["server.yaml"]


def test_the_charts_own_callers_speak_tls() -> None:
    resources = render(TLS_VALUES)
    [endpoint] = only(resources, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {
        "serverName": "rel-convserve.default.svc",
        "ca": {"secret": {"name": "vision-tls", "key": "ca.crt"}},
        "cert": {"secret": {"name": "vision-client-tls", "key": "tls.crt"}},
        "keySecret": {"name": "vision-client-tls", "key": "tls.key"},
    }
    ports = only(resources, "Service", "rel-convserve")["spec"]["ports"]
    ports += only(resources, "Service", "rel-convserve-headless")["spec"]["ports"]
    assert {port["appProtocol"] for port in ports} == {"https"}
    for kind in ("Job", "Pod"):
        pod = pod_of(only(resources, kind))
        mounted = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert mounted >= {"/etc/convserve-ca", "/etc/convserve-client"}
        secrets = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        assert secrets == {"vision-tls", "vision-client-tls"}


def test_rest_callers_reach_pods_by_the_names_of_the_service_and_of_the_values(
    tmp_path: Path,
) -> None:
    resources = render("server.httpHosts={vision.example.com,*.inner.example}")
    file = tmp_path / "server.yaml"
    file.write_text(only(resources, "ConfigMap")["data"]["server.yaml"])
    config = load_config({}, {"CONVSERVE_MODEL_REPOSITORY": "/models"}, file)
    hosts = Hosts(config.http_hosts.split(","))
    service = only(resources, "Service", "rel-convserve")["metadata"]["name"]
    for name in (service, f"{service}.default", f"{service}.default.svc"):
        assert hosts.allows(name)
        assert hosts.allows(f"{name}:8000")
    assert hosts.allows(f"{service}.default.svc.cluster.local")
    assert hosts.allows("vision.example.com")
    assert hosts.allows("a.inner.example")
    assert not hosts.allows("evil.example")


@pytest.mark.parametrize(
    ("values", "hosts"),
    [([], "*"), (["server.httpHosts={a.example,b.example}"], "a.example,b.example")],
)
def test_runtime_for_kserve_is_called_by_any_name_unless_the_values_have_some(
    values: list[str], hosts: str
) -> None:
    [container] = only(render("mode=kserve", *values), "ServingRuntime")["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["CONVSERVE_HTTP_HOSTS"] == hosts


def test_grace_period_covers_the_wait_and_the_drain() -> None:
    pod = pod_of(only(render("server.drainSeconds=90", "preStopSeconds=20"), "Deployment"))
    assert pod["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    ("limit", "threads"), [("4", 4), ("1500m", 2), ("500m", 1), ("2.5", 3), ("null", 0)]
)
def test_threads_follow_the_cpu_limit(limit: str, threads: int) -> None:
    config = only(render(f"resources.limits.cpu={limit}"), "ConfigMap")["data"]["server.yaml"]
    assert yaml.safe_load(config)["threads"] == threads


def test_rollout_starts_a_new_pod_before_it_stops_an_old_one() -> None:
    spec = only(render(), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_new_settings_bring_new_pods_and_equal_ones_do_not() -> None:
    def annotations(*values: str) -> dict[str, str]:
        template = only(render(*values), "Deployment")["spec"]["template"]
        return dict(template["metadata"]["annotations"])

    assert annotations() == annotations("replicas=5")
    assert annotations() != annotations("server.engine=openvino")


def test_services_find_the_pods_of_the_server_and_no_others() -> None:
    resources = render(CHART / "ci" / "jobs-values.yaml")
    pods = {
        one["kind"]: one["spec"].get("template", one)["metadata"]["labels"]
        for one in resources
        if one["kind"] in KINDS_WITH_PODS
    }
    for service in (one for one in resources if one["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        assert [kind for kind, labels in pods.items() if selector <= labels.items()] == [
            "Deployment"
        ]


def test_monitoring_scrapes_each_pod_once() -> None:
    resources = render("serviceMonitor.enabled=true")
    selector = only(resources, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    services = [one for one in resources if one["kind"] == "Service"]
    found = [one for one in services if selector <= one["metadata"]["labels"].items()]
    assert len(services) == 2
    assert len(found) == 1


def test_autoscaled_deployment_leaves_the_number_of_replicas_alone() -> None:
    assert only(render(), "Deployment")["spec"]["replicas"] == 2
    for switch in ("autoscaling.enabled=true", "keda.enabled=true"):
        assert "replicas" not in only(render(switch), "Deployment")["spec"]


def test_gpu_is_requested_and_its_image_taken() -> None:
    resources = render("gpu.enabled=true", "gpu.resource=nvidia.com/mig-1g\\.10gb")
    pod = pod_of(only(resources, "Deployment"))
    [server] = pod["containers"]
    assert server["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert server["image"].endswith("-gpu")
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


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


def test_runtime_for_kserve_replaces_everything_of_our_own() -> None:
    resources = render(CHART / "ci" / "kserve-values.yaml")
    assert {one["kind"] for one in resources} == {
        "ServingRuntime",
        "ServiceAccount",
        "PrometheusRule",
    }
    spec = only(resources, "ServingRuntime")["spec"]
    [container] = spec["containers"]
    # The names that KServe goes by.
    assert container["name"] == "kserve-container"
    assert [port["name"] for port in container["ports"]] == ["h2c"]
    assert container["args"] == ["serve", "--model-repository", "/mnt/models"]
    example = yaml.safe_load(INFERENCE_SERVICE.read_text())
    model = example["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == spec["supportedModelFormats"][0]["name"]
    assert model["protocolVersion"] in spec["protocolVersions"]


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


def test_smoke_test_of_the_release_passes_on_a_real_server(server: ServerProcess) -> None:
    pod = pod_of(only(render(), "Pod"))
    [container] = pod["containers"]
    assert container["command"][:2] == ["python", "/etc/convserve/smoke.py"]
    script = str(CHART / "files" / "smoke.py")
    for model in ("colours", "regions", "points"):
        assert f"{model} version 1" in succeed([sys.executable, script, server.url, model])
    assert "is healthy" in succeed([sys.executable, script, server.url])
    done = run(sys.executable, script, server.url, "nothing")
    assert done.returncode == 1
    assert "'nothing' is not ready" in done.stderr


def test_load_test_job_runs_on_a_real_server(server: ServerProcess, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        "loadtest:\n  enabled: true\n  model: colours\n  synthetic: 64x48\n"
        "  args: [--concurrency, '2', --duration, 1s]\n"
    )
    [container] = pod_of(only(render(values), "Job"))["containers"]
    arguments = [server.url if ":8001" in one else one for one in container["args"]]
    succeed([sys.executable, "-m", "convserve", *arguments])


def test_build_job_signs_with_the_key_of_a_secret() -> None:
    values = CHART / "ci" / "jobs-values.yaml"
    pod = pod_of(only(render(values), "Job", "rel-convserve-build-1"))
    [container] = pod["containers"]
    [secret] = [one["secret"] for one in pod["volumes"] if one["name"] == "sign-key"]
    # The mode that a private key must have: its group is the pod's.
    assert (secret["secretName"], secret["defaultMode"]) == ("model-signer", 0o440)
    [mount] = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "sign-key"]
    assert container["args"][-2:] == ["--set", f"publish.sign_key={mount}/key.pem"]
    [passphrase] = container["env"]
    assert passphrase["name"] == PASSPHRASE_VARIABLE
    assert passphrase["valueFrom"]["secretKeyRef"]["name"] == "model-signer"
    unsigned = only(render(values, "build.signKeySecret="), "Job", "rel-convserve-build-1")
    assert "sign" not in json.dumps(unsigned)


def test_build_job_uses_flags_that_exist() -> None:
    job = only(render(CHART / "ci" / "jobs-values.yaml"), "Job", "rel-convserve-build-1")
    [container] = pod_of(job)["containers"]
    usage = succeed([sys.executable, "-m", "convserve", "build", "--help"])
    for flag in (one for one in container["args"] if one.startswith("--")):
        assert flag in usage


class Archives:
    """An HTTP server with one archive of a model."""

    def __init__(self) -> None:
        self.hold("colours/config.pbtxt")
        self.authorizations: list[str | None] = []
        archives = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                archives.authorizations.append(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(archives.content)

            def log_message(self, *_: object) -> None:
                """Keeps the test's output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/colours.tar.gz"

    def hold(self, name: str, kind: bytes = tarfile.REGTYPE) -> None:
        """From now on the archive holds one entry, of this name and type."""
        content = b"max_batch_size: 1\n" if kind == tarfile.REGTYPE else b""
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, len(content), "/etc"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.addfile(entry, io.BytesIO(content))
        self.content = buffer.getvalue()
        self.sha256 = hashlib.sha256(self.content).hexdigest()


@pytest.fixture
def archives() -> Iterator[Archives]:
    """Running for one test."""
    serving = Archives()
    thread = threading.Thread(target=serving.server.serve_forever)
    thread.start()
    yield serving
    serving.server.shutdown()
    thread.join()
    serving.server.server_close()


def sync(archives: Archives, folder: Path, sha256: str, **env: str) -> tuple[int, str]:
    """Runs the init container's program; status and output."""
    listed = folder.parent / "archives.json"
    listed.write_text(json.dumps([{"url": archives.url, "sha256": sha256}]))
    folder.mkdir(exist_ok=True)
    script = str(CHART / "files" / "sync.py")
    done = run(sys.executable, script, str(listed), str(folder), env=env)
    return done.returncode, done.stdout + done.stderr


def test_models_are_synced_by_digest_once(archives: Archives, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    status, text = sync(archives, folder, archives.sha256, SYNC_AUTHORIZATION="Bearer secret")
    assert status == 0, text
    assert (folder / "colours" / "config.pbtxt").read_text() == "max_batch_size: 1\n"
    assert sync(archives, folder, archives.sha256)[0] == 0
    assert archives.authorizations == ["Bearer secret"]


def test_an_archive_of_another_digest_is_not_unpacked(archives: Archives, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    status, text = sync(archives, folder, "0" * 64)
    assert status == 1
    assert "expected 000" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("/outside", tarfile.REGTYPE),
        ("colours/1", tarfile.SYMTYPE),
        ("colours/1", tarfile.LNKTYPE),
        ("colours/1", tarfile.FIFOTYPE),
    ],
)
def test_an_archive_cannot_reach_out_of_its_folder(
    archives: Archives, tmp_path: Path, name: str, kind: bytes
) -> None:
    archives.hold(name, kind)
    folder = tmp_path / "models"
    status, text = sync(archives, folder, archives.sha256)
    assert status == 1
    assert "is not a file or folder below" in text
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_server_that_is_gone_is_one_clear_line(archives: Archives, tmp_path: Path) -> None:
    archives.url = "http://127.0.0.1:9/colours.tar.gz"
    status, text = sync(archives, tmp_path / "models", archives.sha256)
    assert status == 1
    assert "cannot be fetched" in text
    assert "Traceback" not in text


def test_schema_and_defaults_name_the_same_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, section in values.items():
        if isinstance(section, dict) and "properties" in schema["properties"][name]:
            assert set(schema["properties"][name]["properties"]) >= set(section), name

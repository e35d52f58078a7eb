"""Who may come in, as the chart sets it: rendered, taken by the server, and tried on a real one."""

import contextlib
import http.client
import json
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.server.access.keys import ApiKey, digest_of, new_key
from serving.server.access.policy import groups_of, parse_policy, rights_of
from serving.server.access_config import JwtAlgorithm
from serving.server.config import ServerConfig
from serving.server.config_sources import load_config
from tests.helm.chart import Resource, kserve_pod, only, pod_of, render
from tests.helm.tools import CHART, ROOT, TOOLS, free_ports, program, run, succeed
from tests.support.certified import Certified
from tests.support.process import ServerProcess

AUTH_VALUES = CHART / "ci" / "auth-values.yaml"
TLS_VALUES = CHART / "ci" / "tls-values.yaml"
KSERVE_TLS_VALUES = CHART / "ci" / "kserve-tls-values.yaml"
MODELS = {"CONVSERVE_MODEL_REPOSITORY": "/models"}
METRICS = "CONVSERVE_METRICS_PORT"
ACCESS = ("tls_", "api_keys", "jwt_", "policy", "audit")


def written(resources: list[Resource], folder: Path) -> ServerConfig:
    """The settings that a Deployment's server reads."""
    file = folder / "server.yaml"
    file.write_text(only(resources, "ConfigMap", "rel-convserve")["data"]["server.yaml"])
    return load_config({}, MODELS, file)


def access_of(config: ServerConfig) -> dict[str, Any]:
    return {name: value for name, value in config if name.startswith(ACCESS)}


def test_server_reads_what_the_chart_writes_about_callers(tmp_path: Path) -> None:
    resources = render(AUTH_VALUES, "auth.audit=never", "auth.jwt.algorithms={ES256,EdDSA}")
    config = written(resources, tmp_path)
    assert config.jwt is not None
    assert config.jwt.jwks == "https://login.example.com/keys"
    assert (config.jwt.algorithms, config.jwt.roles_claim) == (["ES256", "EdDSA"], "roles")
    assert (config.audit, config.audit_sample) == (False, 0.01)
    assert written(render(AUTH_VALUES), tmp_path).audit is None
    pod = pod_of(only(resources, "Deployment"))
    mounts = {one["name"]: one for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert str(config.api_keys) == mounts["keys"]["mountPath"] + "/keys"
    assert str(config.policy) == mounts["policy"]["mountPath"] + "/policy.yaml"
    assert volumes["keys"]["secret"] == {"secretName": "vision-keys", "defaultMode": 0o440}
    assert volumes["policy"]["configMap"]["name"] == "rel-convserve-policy"
    # Files that are mounted so never change.
    assert not any("subPath" in mounts[name] for name in ("keys", "policy", "tls"))
    assert not any(access_of(written(render(), tmp_path))[name] for name in ("api_keys", "policy"))


def test_policy_of_the_values_is_one_and_keeps_its_order(tmp_path: Path) -> None:
    text = only(render(AUTH_VALUES), "ConfigMap", "rel-convserve-policy")["data"]["policy.yaml"]
    assert text == yaml.safe_load(AUTH_VALUES.read_text())["auth"]["policy"]
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    check = [sys.executable, "-m", "convserve", "policy"]
    assert "clinics" in succeed([*check, "check", str(file)])
    # The first group with limits counts, so that their order must not change.
    assert list(parse_policy(text).groups) == ["clinics", "operators", "checks"]
    policy = parse_policy(text)
    limits = rights_of(policy, groups_of(policy, ["key:clinic-1"])).limits
    assert limits is not None
    assert (limits.requests_per_second, limits.images_per_day) == (50.5, 10_000_000)


def test_policy_may_be_a_config_map_that_is_there() -> None:
    resources = render("auth.policyConfigMap=mine")
    assert [one["metadata"]["name"] for one in resources if one["kind"] == "ConfigMap"] == [
        "rel-convserve"
    ]
    volumes = {one["name"]: one for one in pod_of(only(resources, "Deployment"))["volumes"]}
    assert volumes["policy"]["configMap"] == {"name": "mine"}


def test_another_policy_or_key_needs_no_new_pods(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("auth: {policy: 'groups: {all: {members: [\"*\"]}}'}\n")
    first, second = (only(render(*more), "Deployment") for more in ((), (values,)))
    again = only(render(AUTH_VALUES), "Deployment")
    other = only(render(AUTH_VALUES, values), "Deployment")
    assert again == other
    assert first != second


def test_schema_names_the_algorithms_of_the_server() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["auth"]
    listed = schema["properties"]["jwt"]["properties"]["algorithms"]["items"]["enum"]
    assert set(listed) == set(get_args(JwtAlgorithm))


# KServe.


def test_runtime_for_kserve_has_the_settings_of_a_deployment(tmp_path: Path) -> None:
    ours = ("server.maxImagePixels=120000000", "server.variant=fp32", "server.strictReadiness=true")
    admin = ("server.admin=token", "server.adminTokenSecret=t", "models.signersConfigMap=s")
    for more in ((), ("tls.clientAuth=optional", "auth.apiKeysSecret=k", *ours, *admin)):
        runtime = only(render(KSERVE_TLS_VALUES, *more), "ServingRuntime")
        [container] = runtime["spec"]["containers"]
        variables = {one["name"]: one["value"] for one in container["env"]}
        config = load_config({}, MODELS | variables)
        deployed = written(render(KSERVE_TLS_VALUES, "mode=deployment", *more), tmp_path)
        differ = {name for name, value in config if value != getattr(deployed, name)}
        assert differ == {"cache_dir", "http_hosts"}
        assert config.http_hosts == "*"
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert str(config.tls_key) == mounts["tls"] + "/tls.key"
        assert str(config.policy) == mounts["policy"] + "/policy.yaml"
        assert config.jwt is not None
        assert config.jwt.jwks == mounts["jwks"] + "/jwks.json"
    assert config.variant == "fp32"
    assert str(config.require_signature) == mounts["signers"]
    assert str(config.admin_token_file) == mounts["admin-token"] + "/token"


@pytest.mark.parametrize("values", [(), (KSERVE_TLS_VALUES,)])
def test_pods_of_kserve_keep_to_the_restricted_standard(
    values: tuple[Path, ...], tmp_path: Path
) -> None:
    resources = render(*values, "mode=kserve")
    pod = kserve_pod(resources)
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(pod))
    succeed([program("kubernetes-validate"), "--strict", "-k", "1.34.0", str(file)])
    spec = pod["spec"]
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    account = only(render("mode=kserve", "fullnameOverride=vision-convserve"), "ServiceAccount")
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    assert not account["automountServiceAccountToken"]
    # Only what is written lies in volumes that can be written.
    writable = {one["name"] for one in container["volumeMounts"] if not one.get("readOnly")}
    assert writable == {"tmp"}


# Certificates.


def test_example_of_cert_manager_fits_its_schemas_and_the_chart() -> None:
    example = list(yaml.safe_load_all((CHART / "examples" / "certificates.yaml").read_text()))
    script = Path(__file__).parent / "validate.mjs"
    command = [program("node"), str(script), str(TOOLS)]
    assert json.loads(succeed(command, stdin=json.dumps(example))) == []
    server, client = (
        only(example, "Certificate", name)["spec"] for name in ("vision-tls", "vision-client-tls")
    )
    resources = render("fullnameOverride=vision-convserve", TLS_VALUES)
    names = yaml.safe_load(only(resources, "ConfigMap")["data"]["server.yaml"])["http_hosts"]
    assert set(server["dnsNames"]) >= set(names.split(","))
    [endpoint] = only(resources, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["serverName"] in server["dnsNames"]
    values = yaml.safe_load(TLS_VALUES.read_text())["tls"]
    assert server["secretName"] == values["secretName"]
    assert client["secretName"] == values["clientSecretName"]
    assert server["issuerRef"] == client["issuerRef"]


# Probes.


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


def port_of(server: ServerProcess) -> int:
    """That of its metrics."""
    return int(server.metrics_url.removesuffix("/metrics").rpartition(":")[2])


def status(
    server: ServerProcess,
    path: str,
    context: ssl.SSLContext,
    headers: Mapping[str, str] | None = None,
) -> int:
    """Of a GET from the metrics port."""
    address = ("127.0.0.1", port_of(server))
    connection = http.client.HTTPSConnection(*address, context=context, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status


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


# A real server.


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


@pytest.fixture(scope="module")
def site(colours: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("access"), colours, cache)


@pytest.fixture(scope="module")
def secured(site: Site) -> Iterator[ServerProcess]:
    server = site.start(*site.made.mutual("--tls-client-auth", "optional"))
    yield server.wait_ready()
    server.kill()


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


def test_the_charts_own_callers_say_who_they_are(
    site: Site, secured: ServerProcess, tmp_path: Path
) -> None:
    resources = render(AUTH_VALUES)
    [smoke] = pod_of(only(resources, "Pod"))["containers"]
    script = str(CHART / "files" / "smoke.py")
    arguments = site.arguments(smoke["command"][2:], secured)
    assert "is healthy" in succeed([sys.executable, script, *arguments])
    values = tmp_path / "values.yaml"
    values.write_text("loadtest: {model: colours, args: [--duration, 1s]}\n")
    [job] = pod_of(only(render(AUTH_VALUES, values), "Job"))["containers"]
    run = [sys.executable, "-m", "convserve", *site.arguments(job["args"], secured)]
    scraped = succeed([*run, "--metrics-url", secured.metrics_url, "--json"])
    [phase] = json.loads(scraped)["phases"]
    assert phase["server"]["metrics"]["requests"] > 0
    assert site.key.read_text() not in scraped
    # Prometheus sends what the ServiceMonitor says.
    [endpoint] = only(resources, "ServiceMonitor")["spec"]["endpoints"]
    shown = endpoint["authorization"]
    assert shown["credentials"] == {"name": "vision-checks", "key": "api-key"}
    context = site.made.trusting.context()
    for credentials, expected in ((site.key.read_text(), 200), ("wrong", 401)):
        header = {"Authorization": f"{shown['type']} {credentials}"}
        assert status(secured, "/metrics", context, header) == expected


def test_smoke_test_and_load_test_pass_on_a_server_that_wants_certificates(
    site: Site, secured: ServerProcess, tmp_path: Path
) -> None:
    """One that takes them does too: the certificate is the caller's name."""
    policy = Path(site.access[-1])
    before = policy.read_text()
    policy.write_text(before.replace("key:checks", "cert:DNS:caller.example"))
    server = site.start(*site.made.mutual())
    try:
        server.wait_ready()
        [smoke] = pod_of(only(render(TLS_VALUES), "Pod"))["containers"]
        script = str(CHART / "files" / "smoke.py")
        arguments = site.arguments(smoke["command"][2:], server)
        assert "is healthy" in succeed([sys.executable, script, *arguments])
        values = tmp_path / "values.yaml"
        values.write_text("loadtest: {model: colours, args: [--duration, 1s]}\n")
        [job] = pod_of(only(render(TLS_VALUES, values), "Job"))["containers"]
        succeed([sys.executable, "-m", "convserve", *site.arguments(job["args"], server)])
    finally:
        server.kill()
        policy.write_text(before)


# Networks.


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


OTHER: dict[str, str] = {"app": "other"}


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

"""The ServingRuntime for KServe: it replaces our own resources, has the settings of a Deployment,
and its pods keep to the restricted standard."""

from pathlib import Path

import pytest
import yaml

from serving.server.config_sources import load_config
from tests.helm.chart import (
    INFERENCE_SERVICE,
    KSERVE_TLS_VALUES,
    MODELS,
    kserve_pod,
    only,
    render,
    written,
)
from tests.helm.tools import CHART, program, succeed


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

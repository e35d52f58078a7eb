"""TLS of the chart: the files of the pods, the example for cert-manager, and its own callers."""

import json
from pathlib import Path

import yaml

from serving.server.config_sources import load_config
from tests.helm.chart import TLS_VALUES, only, pod_of, render
from tests.helm.tools import CHART, TOOLS, program, succeed


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

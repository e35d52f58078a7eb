"""The server reads the settings that the chart writes, and its pods have the files and variables
that these name."""

import json
from pathlib import Path

import pytest
import yaml

from serving.server.config_sources import load_config
from serving.server.http.origin import Hosts
from tests.helm.chart import RenderError, only, pod_of, render, render_text


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
    ("limit", "threads"), [("4", 4), ("1500m", 2), ("500m", 1), ("2.5", 3), ("null", 0)]
)
def test_threads_follow_the_cpu_limit(limit: str, threads: int) -> None:
    config = only(render(f"resources.limits.cpu={limit}"), "ConfigMap")["data"]["server.yaml"]
    assert yaml.safe_load(config)["threads"] == threads

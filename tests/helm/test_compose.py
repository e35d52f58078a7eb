"""compose.yaml and the files it mounts, as far as can be judged without its images."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.helm.balancer import CONFIG, Envoy
from tests.helm.tools import ROOT, program, succeed
from tests.support.process import ServerProcess

COMPOSE = ROOT / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """By name."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return loaded


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    mounted = [
        volume.split(":")[0] for service in services.values() for volume in service["volumes"]
    ]
    files = [ROOT / source for source in mounted if source.startswith("./")]
    assert len(files) >= 6
    assert [file for file in files if file.name != "model_repo" and not file.is_file()] == []


def test_services_have_no_rights_they_do_not_need(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Nothing is offered to other machines by accident.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert services["convserve"]["read_only"]


def test_prometheus_accepts_its_configuration(services: dict[str, Any], tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    # The one path that is of the container.
    assert config["rule_files"] == ["/etc/prometheus/rules.yaml"]
    config["rule_files"] = [str(ROOT / "helm" / "convserve" / "files" / "rules.yaml")]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    succeed([program("promtool"), "check", "config", str(file)])
    [scrape] = config["scrape_configs"]
    assert set(scrape["dns_sd_configs"][0]["names"]) <= set(services)


def test_files_refer_to_services_by_their_names(services: dict[str, Any]) -> None:
    envoy = yaml.safe_load(CONFIG.read_text())
    [cluster] = envoy["static_resources"]["clusters"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    address = endpoint["address"]["socket_address"]
    assert address == {"address": "convserve", "port_value": 8001}
    sources = yaml.safe_load((ROOT / "monitoring" / "grafana" / "datasources.yaml").read_text())
    assert urlsplit(sources["datasources"][0]["url"]).hostname in services
    listener = envoy["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert services["envoy"]["ports"][0].endswith(f":{listener['port_value']}")


def test_envoy_finds_the_server_healthy(server: ServerProcess, tmp_path: Path) -> None:
    envoy = Envoy(tmp_path, [server.url])
    try:
        assert envoy.healthy() == 1
    finally:
        envoy.stop()


def test_balancer_of_compose_is_the_version_that_is_tested(services: dict[str, Any]) -> None:
    version = succeed([program("envoy"), "--version"])
    assert services["envoy"]["image"].split(":v")[1] in version


def test_dashboard_is_json_that_grafana_takes() -> None:
    dashboard = json.loads((ROOT / "helm" / "convserve" / "files" / "dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {
        "datasource",
        "model",
    }

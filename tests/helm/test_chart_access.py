"""Who may come in, as the chart sets it: keys, tokens and policy are rendered and taken by the
server."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from serving.server.access.policy import groups_of, parse_policy, rights_of
from serving.server.access_config import JwtAlgorithm
from serving.server.config import ServerConfig
from serving.server.config_sources import load_config
from tests.helm.chart import AUTH_VALUES, only, pod_of, render, written
from tests.helm.tools import CHART, succeed

ACCESS = ("tls_", "api_keys", "jwt_", "policy", "audit")


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

"""Renders the chart with the real Helm, and reads the settings that it writes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from serving.server.config import ServerConfig
from serving.server.config_sources import load_config
from tests.helm.tools import CHART, program, run

KUBERNETES = ("1.30.0", "1.32.0", "1.34.0")
VALUES_FILES = (CHART / "values.yaml", *sorted((CHART / "ci").glob("*-values.yaml")))
AUTH_VALUES = CHART / "ci" / "auth-values.yaml"
TLS_VALUES = CHART / "ci" / "tls-values.yaml"
KSERVE_TLS_VALUES = CHART / "ci" / "kserve-tls-values.yaml"
# What the variables of a pod add to the settings of its file.
MODELS = {"CONVSERVE_MODEL_REPOSITORY": "/models"}
KINDS_WITH_PODS = {"Deployment", "Job", "Pod"}
INFERENCE_SERVICE = CHART / "examples" / "inferenceservice.yaml"

Resource = dict[str, Any]


class RenderError(Exception):
    """Helm refused; its message."""


def render_text(*values: Path | str, kubernetes: str = "1.34.0", helm: str = "helm") -> str:
    """The rendered YAML of a release named `rel`; a value is a file or KEY=VALUE."""
    command = [program(helm), "template", "rel", str(CHART), "--kube-version", kubernetes]
    for value in values:
        command += ["--values" if isinstance(value, Path) else "--set", str(value)]
    done = run(*command)
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return done.stdout


def render(*values: Path | str, kubernetes: str = "1.34.0") -> list[Resource]:
    """The rendered resources."""
    return [one for one in yaml.safe_load_all(render_text(*values, kubernetes=kubernetes)) if one]


def only(resources: Iterable[Resource], kind: str, name: str = "") -> Resource:
    """The one resource of a kind (and name)."""
    [found] = [
        one for one in resources if one["kind"] == kind and name in ("", one["metadata"]["name"])
    ]
    return found


def kserve_pod(resources: Iterable[Resource]) -> Resource:
    """The pod that KServe makes of a ServingRuntime for the example of an InferenceService."""
    runtime = only(resources, "ServingRuntime")["spec"]
    predictor = yaml.safe_load(INFERENCE_SERVICE.read_text())["spec"]["predictor"]
    own = {key: value for key, value in predictor.items() if key not in ("minReplicas", "model")}
    spec = own | {key: runtime[key] for key in ("containers", "volumes")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "vision"}, "spec": spec}


def pod_of(resource: Resource) -> dict[str, Any]:
    """The pod's spec of a resource that makes pods, or is one."""
    spec: dict[str, Any] = resource["spec"]
    return spec if resource["kind"] == "Pod" else dict(spec["template"]["spec"])


def written(resources: list[Resource], folder: Path) -> ServerConfig:
    """The settings that a Deployment's server reads."""
    file = folder / "server.yaml"
    file.write_text(only(resources, "ConfigMap", "rel-convserve")["data"]["server.yaml"])
    return load_config({}, MODELS, file)

"""Values that are wrong, or that a cluster cannot have, are refused by name; the schema knows the
defaults."""

import json

import pytest
import yaml

from tests.helm.chart import RenderError, only, pod_of, render, render_text
from tests.helm.tools import CHART

ARCHIVE = f"models.source=sync,models.sync.archives[0].sha256={'0' * 64},models.sync.archives[0]."


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


def test_schema_and_defaults_name_the_same_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, section in values.items():
        if isinstance(section, dict) and "properties" in schema["properties"][name]:
            assert set(schema["properties"][name]["properties"]) >= set(section), name

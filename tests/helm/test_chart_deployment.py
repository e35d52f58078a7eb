"""The pods of the Deployment: how they start, stop, are replaced and scaled, what finds them, and
their GPU."""

from tests.helm.chart import KINDS_WITH_PODS, only, pod_of, render
from tests.helm.tools import CHART


def test_clusters_without_the_sleep_action_wait_all_the_same() -> None:
    for kubernetes, action in (("1.29.0", "exec"), ("1.30.0", "sleep")):
        [server] = pod_of(only(render(kubernetes=kubernetes), "Deployment"))["containers"]
        assert list(server["lifecycle"]["preStop"]) == [action]


def test_grace_period_covers_the_wait_and_the_drain() -> None:
    pod = pod_of(only(render("server.drainSeconds=90", "preStopSeconds=20"), "Deployment"))
    assert pod["terminationGracePeriodSeconds"] == 120


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

"""The chart's own callers and jobs: its smoke test and its load test run on real servers, with and
without access control, and its build is called with flags that exist."""

import json
import sys
from pathlib import Path

from serving.repository.signing.keys import PASSPHRASE_VARIABLE
from tests.helm.chart import AUTH_VALUES, TLS_VALUES, only, pod_of, render
from tests.helm.secured import Site, status
from tests.helm.tools import CHART, run, succeed
from tests.support.process import ServerProcess


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

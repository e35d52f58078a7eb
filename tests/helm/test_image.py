"""The image: built and run for real, with no rights and little memory."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.containers import BASE, Container, Containers
from tests.helm.load import NO_RETRY, Load
from tests.helm.tools import ROOT, program, run, succeed
from tests.support.published import publish

# Bytes. More takes longer to pull. Of object stores and OpenTelemetry it has some 50 MB.
CPU_LAYERS_MAX = 650 * 10**6
DRAIN_SECONDS = 6


@pytest.fixture(scope="module")
def image(containers: Containers) -> str:
    """The `cpu` target, built."""
    return containers.build("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository that the image's user may read."""
    repository = tmp_path_factory.mktemp("models")
    publish(repository)
    for folder in (repository, *repository.parents):
        if folder.owner() == "root" and folder.is_relative_to(tmp_path_factory.getbasetemp()):
            folder.chmod(0o755)
    return repository


@pytest.fixture(scope="module")
def container(containers: Containers, image: str, models: Path) -> Iterator[Container]:
    """A running server that the tests leave as it is."""
    with containers.serving(image, models) as running:
        yield running.wait_ready()


def test_dockerfile_passes_the_linter() -> None:
    done = run(program("hadolint"), str(ROOT / "Dockerfile"))
    assert done.returncode == 0, done.stdout


def test_layers_above_the_base_keep_their_limit(containers: Containers, image: str) -> None:
    assert containers.size_above_base(image) <= CPU_LAYERS_MAX


def test_dependencies_and_code_are_layers_of_their_own(containers: Containers, image: str) -> None:
    history = json.loads(containers.podman("history", "--format", "json", image))
    large = [layer["size"] for layer in history if layer["size"] > 10**6]
    # Newest first: the code, the dependencies, the base.
    assert len(large) == 3
    assert large[0] < 20 * 10**6 < large[1]


def test_image_says_what_it_is(containers: Containers, image: str) -> None:
    [config] = json.loads(containers.podman("image", "inspect", image))
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "convserve"
    assert labels["org.opencontainers.image.revision"] == "test"
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert {f"org.opencontainers.image.{name}" for name in ("licenses", "version")} <= set(labels)
    assert config["User"] == "10001:10001"


def test_bill_of_materials_agrees_with_a_scan_of_the_image(
    containers: Containers, image: str, tmp_path: Path
) -> None:
    mounted = containers.podman("image", "mount", image).strip()
    try:
        written = json.loads((Path(mounted) / "opt/application/sbom.cdx.json").read_text())
        found = tmp_path / "scan.json"
        command = [program("trivy"), "rootfs", "--quiet", "--format", "cyclonedx"]
        # What setuptools carries inside itself is part of setuptools.
        command += ["--offline-scan", "--skip-dirs", "**/_vendor", "--output", str(found)]
        succeed([*command, f"{mounted}/opt"])
    finally:
        containers.podman("image", "unmount", image)
    scanned = {
        # Some wheels describe themselves once more, and name their file then.
        component["purl"].split("?")[0]
        for component in json.loads(found.read_text())["components"]
        if component.get("purl", "").startswith("pkg:pypi/")
    }
    ours = {component["purl"] for component in written["components"]}
    ours.add(written["metadata"]["component"]["purl"])
    assert scanned == ours
    assert not any(purl.startswith(("pkg:pypi/torch@", "pkg:pypi/pip@")) for purl in ours)


def test_server_runs_without_rights(container: Container) -> None:
    status = container.exec("cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert fields["CapEff"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"
    mounts = container.exec("cat", "/proc/1/mounts").splitlines()
    [root] = [line.split()[3] for line in mounts if line.split()[1] == "/"]
    assert "ro" in root.split(",")


def test_server_answers_and_is_healthy(container: Container) -> None:
    load = Load(container.url).wait_for(50)
    assert set(load.stop()) == {"OK"}
    assert container.healthy()


def test_every_command_of_serving_starts_in_the_image(container: Container) -> None:
    doctor = json.loads(container.exec("convserve", "doctor", "--json"))
    assert doctor
    listed = container.exec("convserve", "models", "--url", container.url, "--json")
    assert "colours" in listed


def test_health_check_fails_where_nothing_serves(
    containers: Containers, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with containers.serving(image, tmp_path) as empty:
        assert not empty.healthy()


def test_sigterm_under_load_loses_nothing(containers: Containers, image: str, models: Path) -> None:
    with containers.serving(image, models, "--drain-seconds", str(DRAIN_SECONDS)) as running:
        url = running.wait_ready().url
        load = Load(url, NO_RETRY, leave_when_refused=True).wait_for(100)
        answered = load.codes["OK"]
        status = running.stop(seconds=3 * DRAIN_SECONDS)
        codes = load.stop()
    assert status == 0
    # It went on answering while callers could not know yet, and then told each to go elsewhere.
    assert codes["OK"] > answered + 50
    assert set(codes) == {"OK", "UNAVAILABLE"}, load.failures
    assert {"shutting down" in text for text in load.failures} == {True}, load.failures


def test_trivy_finds_no_misconfiguration() -> None:
    command = (program("trivy"), "config", "--skip-check-update", "--format", "json", "--quiet")
    report = json.loads(succeed([*command, str(ROOT / "Dockerfile")]))
    [result] = report["Results"]
    assert result["MisconfSummary"]["Successes"] > 0
    found = {
        one["ID"]: one["Message"]
        for one in result.get("Misconfigurations", [])
        if one["Severity"] in ("HIGH", "CRITICAL")
    }
    assert not found

"""The stand-in of a cluster refuses what a cluster would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helm.tools import CHART, program

ROOT = Path(__file__).parents[2]
CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: convserve-models}
spec: {accessModes: [ReadOnlyMany], resources: {requests: {storage: 1Gi}}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _programs() -> None:
    for needed in ("helm", "kubectl", "kubernetes-validate"):
        program(needed)


def run(home: Path, *words: str) -> tuple[int, str]:
    """Status of a command, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tutorials.cluster", *words],
        cwd=home,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_release_needs_what_its_pods_refer_to(tmp_path: Path) -> None:
    install = ("helm", "install", "vision", str(CHART))
    status, said = run(tmp_path, *install)
    assert status == 1
    assert "not there: PersistentVolumeClaim convserve-models" in said

    (tmp_path / "claim.yaml").write_text(CLAIM)
    assert run(tmp_path, "kubectl", "apply", "-f", "claim.yaml")[0] == 0
    assert "STATUS: deployed" in run(tmp_path, *install)[1]
    assert run(tmp_path, *install)[0] == 1
    assert run(tmp_path, "kubectl", "rollout", "status", "deploy/vision-convserve")[0] == 0
    assert run(tmp_path, "kubectl", "rollout", "status", "deploy/other")[0] == 1
    assert run(tmp_path, "helm", "upgrade", "other", str(CHART))[0] == 1


def test_resources_that_kubernetes_would_refuse_are_refused(tmp_path: Path) -> None:
    (tmp_path / "claim.yaml").write_text(CLAIM.replace("accessModes", "accesModes"))
    status, said = run(tmp_path, "kubectl", "apply", "-f", "claim.yaml")
    assert status == 1
    assert "accesModes" in said


@pytest.mark.parametrize(
    "words", [("kubectl", "explode"), ("docker", "push", "absent:1"), ("docker", "run", "absent:1")]
)
def test_a_command_that_cannot_be_checked_fails(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path, *words)[0] == 1

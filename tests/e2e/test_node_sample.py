"""The Node sample, as its README says, against a real server process."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

from tests.support.certified import Certified
from tests.support.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "node"
OLDEST_NODE = 20
INSTALL_SECONDS = 120


def missing(reason: str) -> NoReturn:
    """Fails in CI, where everything must be tested; skips elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def node() -> str:
    """The path of a node that is new enough."""
    found = shutil.which("node")
    if found is None:
        missing("node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < OLDEST_NODE:
        missing(f"node is {version.stdout.strip()}, the sample needs {OLDEST_NODE}")
    return found


@pytest.fixture(scope="module")
def sample(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sample with its modules: those that are installed beside it, or installed into
    the copy."""
    folder = tmp_path_factory.mktemp("sample") / "node"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    if (SAMPLE / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(SAMPLE / "node_modules")
        return folder
    npm = shutil.which("npm")
    if npm is None:
        missing("npm is not installed, and the sample has no node_modules")
    try:
        installed = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--prefer-offline"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        missing("npm ci did not end in time")
    if installed.returncode:
        missing(f"npm ci failed: {installed.stderr.strip().splitlines()[:1]}")
    return folder


def classify(node: str, sample: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the sample to its end."""
    return subprocess.run(
        [node, "classify.mjs", *map(str, arguments)],
        cwd=sample,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CONVSERVE_PROTOS": str(ROOT / "protos")},
        check=False,
    )


def test_image_files_get_their_labels(
    node: str, sample: Path, server: ServerProcess, tmp_path: Path
) -> None:
    for name, colour in (("red.png", (220, 30, 20)), ("blue.jpg", (10, 20, 200))):
        Image.new("RGB", (20, 12), colour).save(tmp_path / name)
    files = (tmp_path / "red.png", tmp_path / "blue.jpg")
    done = classify(node, sample, "--url", server.url, "--top-k", "2", "colours", *files)
    assert done.returncode == 0, done.stderr
    red, blue = done.stdout.splitlines()
    assert red.startswith(f"{tmp_path / 'red.png'}: red 0.9")
    assert blue.startswith(f"{tmp_path / 'blue.jpg'}: blue 0.9")
    assert all(line.endswith("(colours 1)") and line.count(",") == 1 for line in (red, blue))


def test_what_is_no_image_is_said_and_the_rest_is_answered(
    node: str, sample: Path, server: ServerProcess, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), (0, 200, 0)).save(tmp_path / "green.png")
    (tmp_path / "text.png").write_text("not an image")
    files = (tmp_path / "text.png", tmp_path / "absent.png", tmp_path / "green.png")
    done = classify(node, sample, "--url", server.url, "colours", *files)
    assert done.returncode == 1
    assert "not an image" in done.stderr
    assert "no such file" in done.stderr
    assert "green 0." in done.stdout


def test_tls_is_spoken_and_what_keeps_the_sample_out_is_said(
    node: str, sample: Path, server: ServerProcess, colours: Path, cache: Path, tmp_path: Path
) -> None:
    made = Certified(tmp_path / "tls")
    image = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (220, 30, 20)).save(image)
    secured = ServerProcess(colours, *made.mutual(), cache=cache, context=made.tls.context())

    def said(url: str, *options: str | Path) -> str:
        done = classify(node, sample, "--url", url, *options, "colours", image)
        return done.stdout + done.stderr

    trust = ("--tls-ca", made.ca)
    proof = ("--tls-cert", made.tls.cert or "", "--tls-key", made.tls.key or "")
    try:
        url = secured.wait_ready().url
        named = ("--tls-server-name", "localhost")
        assert ": red 0.9" in said(f"grpcs://{url}", *trust, *proof, *named)
        assert "with --tls-ca" in said(url, "--tls")
        assert "--tls-cert and --tls-key" in said(url, *trust)
        assert "it may speak TLS: --tls" in said(url)
        assert "leave --tls out" in said(server.url, *trust)
    finally:
        secured.kill()


def test_wrong_usage_is_said(node: str, sample: Path) -> None:
    done = classify(node, sample, "colours")
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_lockfile_names_no_registry() -> None:
    assert '"resolved"' not in (SAMPLE / "package-lock.json").read_text()

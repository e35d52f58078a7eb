"""The Node sample, as its README says, against a real server process."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.support.certified import Certified
from tests.support.node import ROOT, SAMPLE, copy_sample, find_node
from tests.support.process import ServerProcess


@pytest.fixture(scope="module")
def node() -> str:
    return find_node()


@pytest.fixture(scope="module")
def sample(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sample(tmp_path_factory.mktemp("sample") / "node")


def classify(
    node: str, sample: Path, *arguments: str | Path, protos: Path = ROOT / "protos"
) -> subprocess.CompletedProcess[str]:
    """Runs the sample to its end."""
    return subprocess.run(
        [node, "classify.mjs", *map(str, arguments)],
        cwd=sample,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CONVSERVE_PROTOS": str(protos)},
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


def test_who_calls_is_said_by_a_file(
    node: str, sample: Path, colours: Path, cache: Path, tmp_path: Path
) -> None:
    image, key, keys = tmp_path / "red.png", tmp_path / "key", tmp_path / "keys"
    Image.new("RGB", (8, 8), (220, 30, 20)).save(image)
    key.write_text(new_key() + "\n")
    keys.write_text(ApiKey("node", digest_of(key.read_text().strip())).line() + "\n")
    knowing = ServerProcess(colours, "--api-keys", str(keys), cache=cache)

    def said(*options: str | Path) -> str:
        done = classify(node, sample, "--url", knowing.url, *options, "colours", image)
        return done.stdout + done.stderr

    try:
        knowing.wait_ready()
        assert ": red 0.9" in said("--api-key-file", key)
        assert "expected 'x-api-key: KEY'" in said()
        # A key is no token.
        assert "the call does not say who makes it" in said("--token-file", key)
        absent = said("--api-key-file", tmp_path / "absent")
        assert "no such file" in absent
        assert len(absent.splitlines()) == 1
    finally:
        knowing.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["colours"], "MODEL and IMAGE are missing"),
        (["--no-such-option"], "'--no-such-option'"),
        (["--top-k", "many", "colours", "a.png"], "--top-k many: a number from 1 is expected"),
    ],
)
def test_wrong_usage_is_said(node: str, sample: Path, arguments: list[str], said: str) -> None:
    done = classify(node, sample, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "usage: node classify.mjs" in done.stderr


def test_help_has_every_option(node: str, sample: Path) -> None:
    done = classify(node, sample, "--help")
    assert done.returncode == 0
    assert "Classifies JPEG" in done.stdout
    declared = re.findall(
        r"^ {6}'?([\w-]+)'?: \{ type:", (SAMPLE / "classify.mjs").read_text(), re.M
    )
    assert {f"--{name}" for name in declared} - {"--help"} == set(
        re.findall(r"--[\w-]+", done.stdout)
    )


def test_protos_that_are_not_there_are_said(node: str, sample: Path, tmp_path: Path) -> None:
    done = classify(node, sample, "colours", "a.png", protos=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} has no vision.proto: name its folder in CONVSERVE_PROTOS\n"


def test_lockfile_names_no_registry() -> None:
    assert '"resolved"' not in (SAMPLE / "package-lock.json").read_text()

"""Provenance of a release: made of a commit, and checked against files, images and locks."""

import subprocess
from pathlib import Path

import pytest

from scripts.provenance import main
from tests.support.signed import Signer

IMAGE = f"registry.example/convserve@sha256:{'a' * 64}"
OTHER = f"registry.example/convserve@sha256:{'d' * 64}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "requirements.lock").write_text("numpy==2.0\n")
    (root / "requirements-serving.lock").write_text("numpy==2.0\n")
    commit(root)
    return root


def commit(root: Path) -> None:
    who = ("-c", "user.name=us", "-c", "user.email=us@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", *arguments], cwd=root, check=True)


class Release:
    """A wheel, and the statement on it."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.signer = Signer()
        self.key, self.public = self.signer.write(folder, "key")
        self.wheel = folder / "convserve-0.1.0-py3-none-any.whl"
        self.wheel.write_bytes(b"wheel")
        self.file = folder / "provenance.json"
        self._checkout = checkout

    def make(self, *more: str) -> None:
        given = ["make", str(self.file), "--key", str(self.key), "--subject", str(self.wheel)]
        main([*given, "--image", IMAGE, OTHER, *more], self._checkout)

    def verify(self, *more: str) -> None:
        given = ["verify", str(self.file), "--keys", str(self.public)]
        main([*given, "--subject", str(self.wheel), *more], self._checkout)


@pytest.fixture
def release(tmp_path: Path, checkout: Path) -> Release:
    return Release(tmp_path, checkout)


def refused(capsys: pytest.CaptureFixture[str], call: object, *arguments: str) -> str:
    """The one line on stderr."""
    with pytest.raises(SystemExit) as ended:
        call(*arguments)  # type: ignore[operator]
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_release_that_was_built_of_this_commit_is_taken(
    release: Release, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.make("--base-image", f"python@sha256:{'b' * 64}")
    release.verify("--image", IMAGE, OTHER)
    printed = capsys.readouterr().out
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True).strip()
    assert f"signed by key {release.signer.id}\ncommit {head}\n{release.wheel.name} " in printed
    assert f"registry.example/convserve {'a' * 64}" in printed


def test_what_differs_is_named(
    release: Release, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.make()
    capsys.readouterr()
    other = f"registry.example/convserve@sha256:{'c' * 64}"
    assert "registry.example/convserve: is {" in refused(capsys, release.verify, "--image", other)
    assert "other: the statement does not name it" in refused(
        capsys, release.verify, "--image", f"other@sha256:{'a' * 64}"
    )
    assert "expected an image by its digest" in refused(
        capsys, release.verify, "--image", "convserve:latest"
    )
    (checkout / "requirements.lock").write_text("numpy==2.1\n")
    assert "requirements.lock: is {" in refused(capsys, release.verify)
    commit(checkout)
    assert "source: is {'gitCommit': " in refused(capsys, release.verify)
    release.wheel.write_bytes(b"another")
    assert f"{release.wheel.name}: is {{" in refused(capsys, release.verify)


def test_nobody_else_has_made_it(
    release: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release.make()
    capsys.readouterr()
    release.public.write_text(Signer().pem)
    assert f"signed by key {release.signer.id}, which is not trusted" in refused(
        capsys, release.verify
    )


def test_checkout_with_changes_has_no_provenance(
    release: Release, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "requirements.lock").write_text("numpy==2.1\n")
    assert "1 files differ from the commit" in refused(capsys, release.make)
    assert not release.file.exists()


def test_release_is_built_of_the_commit_and_not_of_what_lies_in_the_folder() -> None:
    """There lie files that are in no commit, and those of former builds."""
    root = Path(__file__).parents[1]
    command = ["make", "--dry-run", "--assume-old=.venv/ready", "provenance", "KEY=key.pem"]
    made = subprocess.check_output(command, cwd=root, text=True).replace("\\\n", " ")
    lines = made.splitlines()
    [archived] = [line for line in lines if line.startswith("git archive HEAD")]
    committed = archived.split()[-1]
    built = [line.split()[-1] for line in lines if " pip wheel " in line or "helm package" in line]
    assert built == [f"./{committed}", f"{committed}/helm/convserve"]

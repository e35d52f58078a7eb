"""`convserve sign` and `convserve verify`; other commands that ask for signatures."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from serving.cli import models, predict, signing
from serving.repository.signing.keys import PASSPHRASE_VARIABLE
from serving.repository.signing.statement import read_signature
from tests.support.published import publish
from tests.support.signed import Signer


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    app = {"models": models.app, "predict": predict.app}.get(str(arguments[0]), signing.app)
    result = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    return result.exit_code, result.stdout.strip(), result.stderr.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path / "models")


def test_version_that_is_signed_is_verified_until_it_changes(folder: Path, tmp_path: Path) -> None:
    signer = Signer()
    key, public = signer.write(tmp_path, "key")
    assert run("sign", folder, "--key", key) == (0, f"{folder}: signed by key {signer.id}", "")
    (folder / "notes.txt").touch()
    status, told, warned = run("verify", folder, "--keys", public)
    assert (status, told) == (0, f"{folder}: signed by key {signer.id}")
    assert warned == f"convserve: {folder}: not signed, and passed over: notes.txt"
    (folder / "samples.npz").unlink()
    status, _, warned = run("verify", folder, folder.parent / "9", "--keys", public)
    assert status == 1
    first, second = warned.splitlines()
    assert first == (
        f"convserve: {folder / 'samples.npz'}: key {signer.id} signed it, and it is not there"
    )
    assert "9: no signature.json: nobody has signed it" in second


def test_second_key_signs_nothing_that_differs_from_what_the_first_has_signed(
    folder: Path, tmp_path: Path
) -> None:
    """Whoever replaces a key does not vouch for what others have changed since."""
    first, second = Signer(), Signer()
    key, public = first.write(tmp_path, "first")
    successor, _ = second.write(tmp_path, "second")
    given = ("sign", folder, "--key", successor, "--keys", public)
    status, _, told = run(*given)
    assert status == 1
    assert "nobody has signed it" in told
    assert run("sign", folder, "--key", key)[0] == 0
    assert run(*given) == (0, f"{folder}: signed by key {second.id}", "")
    assert read_signature(folder, first.trusted | second.trusted)[1] == (first.id, second.id)
    (folder / "model.int8.onnx").touch()
    status, _, told = run(*given)
    assert (status, told) == (
        1, f"convserve: {folder}: is not as key {first.id} signed it; nothing was signed"
    )  # fmt: skip


def test_folder_may_be_given_by_any_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public = Signer().write(tmp_path, "key")
    (folder.parent / "2").mkdir()
    for where, path in ((folder, "."), (folder.parent / "2", "../1"), (folder.parent, "1/")):
        monkeypatch.chdir(where)
        assert run("sign", path, "--key", key)[0] == 0
        assert run("verify", path, "--keys", public)[0] == 0


def test_signatures_of_a_servers_models_are_the_servers(tmp_path: Path) -> None:
    """An option that nothing heeds would pass for a check."""
    _, public = Signer().write(tmp_path, "key")
    given = ("--url", "localhost:1", "--require-signature", public)
    for command in (("models",), ("predict", "a.jpg", "--model", "a")):
        status, _, told = run(*command, *given)
        assert status == 2
        assert "is for --model-repository" in told


def test_passphrase_comes_from_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = Signer().write(tmp_path, "key", passphrase="secret")
    status, _, told = run("sign", folder, "--key", key)
    assert status == 1
    assert told == f"convserve: --key: {key}: is encrypted, and {PASSPHRASE_VARIABLE} holds no " + (
        "passphrase"
    )
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "secret")
    assert run("sign", folder, "--key", key)[0] == 0


def test_what_cannot_be_signed_or_trusted_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    key, _ = Signer().write(tmp_path, "key")
    status, _, told = run("sign", folder.parent, "--key", key)
    assert status == 1
    assert told == f"convserve: {folder.parent}: expected the folder of a version, NAME/<number>"
    status, _, told = run("verify", folder, "--keys", key)
    assert (status, len(told.splitlines())) == (1, 1)
    assert f"--keys: {key}: expected Ed25519 public keys in PEM form, got a 'PRIVATE KEY'" in told
    (folder.parent / "config.pbtxt").write_text("input {")
    status, _, told = run("sign", folder, "--key", key)
    assert (status, len(told.splitlines())) == (1, 1)
    assert "config.pbtxt: line " in told


def test_models_predicts_the_refusals_of_a_server(folder: Path, tmp_path: Path) -> None:
    signer = Signer()
    key, public = signer.write(tmp_path, "key")
    publish(tmp_path / "models", "unsigned")
    run("sign", folder, "--key", key)
    listed = ("models", "--json", "--model-repository", tmp_path / "models", "--engine")
    cache = ("--cache-dir", tmp_path / "cache", "--require-signature", public)
    _, text, _ = run(*listed, "onnxruntime", *cache)
    lines = [line for line in json.loads(text) if line["state"] != "not run here"]
    [signed, unsigned] = lines
    assert (signed["name"], signed["state"]) == ("colours", "serves")
    assert (unsigned["name"], unsigned["state"]) == ("unsigned", "refused")
    assert "nobody has signed it" in unsigned["reason"]


def test_models_goes_on_where_one_of_them_cannot_be_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public = Signer().write(tmp_path, "key")
    run("sign", folder, "--key", key)
    publish(tmp_path / "models", "unsigned")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "utime", full)
    listed = ("models", "--json", "--model-repository", tmp_path / "models")
    cache = ("--cache-dir", tmp_path / "cache", "--require-signature", public)
    status, text, _ = run(*listed, *cache)
    assert status == 0
    [signed, unsigned] = json.loads(text)
    assert signed["reason"].endswith("cannot be copied: No space left on device")
    assert "nobody has signed it" in unsigned["reason"]


def test_predict_loads_nothing_that_nobody_has_signed(folder: Path, tmp_path: Path) -> None:
    signer = Signer()
    key, public = signer.write(tmp_path, "key")
    image = tmp_path / "red.png"
    Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8)).save(image)
    given = ("predict", image, "--model", "colours", "--model-repository", folder.parents[1])
    status, _, told = run(*given, "--require-signature", public)
    assert status == 1
    assert "nobody has signed it" in told
    run("sign", folder, "--key", key)
    status, text, _ = run(*given, "--require-signature", public)
    assert (status, "red" in text) == (0, True)

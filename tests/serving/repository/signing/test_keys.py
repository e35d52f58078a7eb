"""Keys in PEM files: which are taken, and what is said of the others."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from serving.repository.signing.keys import (
    PASSPHRASE_VARIABLE,
    BadKey,
    key_id,
    parse_public_keys,
    pem_of,
    read_private_key,
)
from tests.support.signed import Signer


def test_keys_of_a_file_are_found_by_the_digest_of_their_der_form() -> None:
    first, second = Signer(), Signer()
    keys = parse_public_keys(f"# ours\n{first.pem}\nthe next one\n{second.pem}{first.pem}")
    assert list(keys) == [first.id, second.id]
    public = first.private.public_key()
    form = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert first.id == key_id(public) == hashlib.sha256(form).hexdigest()[:16]
    assert list(parse_public_keys(pem_of(keys))) == list(keys)
    assert parse_public_keys("") == {}


def test_only_public_ed25519_keys_are_trusted(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(BadKey, match="key 1: expected an Ed25519 key, got one of"):
        parse_public_keys(pem)
    private, _ = Signer().write(tmp_path, "key")
    with pytest.raises(BadKey, match="expected Ed25519 public keys in PEM form, got a 'PRIVATE"):
        parse_public_keys(private.read_text())
    with pytest.raises(BadKey, match="key 2: is no public key in PEM form"):
        parse_public_keys(Signer().pem + Signer().pem[:60])
    with pytest.raises(BadKey, match="at most 100 keys"):
        parse_public_keys("".join(Signer().pem for _ in range(101)))


def test_private_key_is_opened_with_the_passphrase_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer()
    plain, _ = signer.write(tmp_path, "plain")
    locked, _ = signer.write(tmp_path, "locked", passphrase="grün")
    with pytest.raises(BadKey, match=f"locked.pem: is encrypted, and {PASSPHRASE_VARIABLE} holds"):
        read_private_key(locked)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "rot")
    with pytest.raises(BadKey, match=f"{PASSPHRASE_VARIABLE} does not open it"):
        read_private_key(locked)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "grün")
    for file in (plain, locked):
        assert key_id(read_private_key(file).public_key()) == signer.id


def test_key_that_openssl_makes_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)
    public = subprocess.check_output(["openssl", "pkey", "-in", file, "-pubout"], text=True)
    assert list(parse_public_keys(public)) == [key_id(read_private_key(file).public_key())]


def test_private_key_of_another_kind_or_open_to_others_is_refused(tmp_path: Path) -> None:
    file, public = Signer().write(tmp_path, "key")
    file.chmod(0o644)
    with pytest.raises(BadKey, match=r"may be read or written by others \(mode 644\)"):
        read_private_key(file)
    public.chmod(0o600)
    with pytest.raises(BadKey, match="expected a private key: is none in PEM form"):
        read_private_key(public)
    other = rsa.generate_private_key(65537, 2048)
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public.write_bytes(other.private_bytes(*form))
    with pytest.raises(BadKey, match="expected an Ed25519 key"):
        read_private_key(public)
    with pytest.raises(BadKey, match="cannot be read: No such file"):
        read_private_key(tmp_path / "none")

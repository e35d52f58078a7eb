"""The files of TLS: those that fit are taken, others leave the last in use."""

import base64
import logging
import os
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from serving.server.config import StartError
from serving.server.config_sources import ConfigError, load_config
from serving.server.tls.certificates import Certificates, Served
from tests.support.certified import Certified


@pytest.fixture
def made(tmp_path: Path) -> Certified:
    return Certified(tmp_path / "tls")


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("server.pem", None, "--tls-cert: {} cannot be read: No such file"),
        ("server.pem", b"", "--tls-cert: {}: expected certificates in PEM form"),
        ("server.pem", b"\xff" * 100, "--tls-cert: {}: expected certificates in PEM form"),
        ("server.pem", b"a" * (3 << 20), "--tls-cert: {} has more than"),
        ("server.key", b"-----BEGIN PRIVATE KEY-----\n", "--tls-key: {}: expected a private key"),
        ("ca.pem", b"", "--tls-client-ca: {}: expected certificates in PEM form"),
    ],
)
def test_a_file_that_does_not_fit_ends_the_start_with_its_name_and_fault(
    made: Certified, file: str, content: bytes | None, fault: str
) -> None:
    path = made.folder / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StartError) as refused:
        made.certificates(mutual=True)
    assert fault.format(path) in str(refused.value)


def test_a_folder_and_a_pipe_are_no_files(made: Certified) -> None:
    made.cert.unlink()
    os.mkfifo(made.cert)
    with pytest.raises(StartError, match=r"--tls-cert: .* is not a file"):
        made.certificates()
    made.cert.unlink()
    made.cert.mkdir()
    with pytest.raises(StartError, match=r"--tls-cert: .* cannot be read: Is a directory"):
        made.certificates()


def test_the_key_of_another_certificate_is_told(made: Certified) -> None:
    made.write(made.key, trustme.CA().private_key_pem.bytes())
    with pytest.raises(
        StartError, match=r"server\.key is not the key of the \(first\) certificate"
    ):
        made.certificates()


def test_a_key_with_a_passphrase_is_told_and_nobody_is_asked_for_it(made: Certified) -> None:
    key = load_pem_private_key(made.key.read_bytes(), None)
    encrypted = BestAvailableEncryption(b"secret")
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted))
    with pytest.raises(StartError, match=r"server\.key is encrypted"):
        made.certificates()


def test_an_expired_certificate_is_told_with_its_date(made: Certified) -> None:
    made.renew(days=-2)
    with pytest.raises(StartError, match=r"--tls-cert: .* expired on 20\d\d-"):
        made.certificates()


def test_a_renewed_pair_is_taken(made: Certified) -> None:
    followed = made.certificates()
    before = followed.current
    followed.renew()
    assert followed.current is before
    made.renew(days=60)
    followed.renew()
    assert followed.current.expires == made.expires != before.expires


def test_a_pair_that_is_half_there_keeps_the_old_one_until_it_is_whole(
    made: Certified, caplog: pytest.LogCaptureFixture
) -> None:
    followed = made.certificates()
    before, old_key = followed.current, made.key.read_bytes()
    made.renew()
    new_key = made.key.read_bytes()
    made.write(made.key, old_key)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            followed.renew()
    assert followed.current is before
    assert [record.getMessage() for record in caplog.records] == ["the certificate in use is kept"]
    assert made.refused == 1
    made.write(made.key, new_key)
    followed.renew()
    assert followed.current.expires == made.expires
    assert made.refused == 0


def test_files_that_change_while_they_are_read_are_read_again(
    made: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = made.certificates()
    before = followed.current
    load = Certificates._load

    def loaded(given: Certificates) -> Served:
        found = load(given)
        made.renew(days=50)
        return found

    made.renew(days=40)
    with monkeypatch.context() as patch:
        patch.setattr(Certificates, "_load", loaded)
        followed.renew()
    assert followed.current is before
    followed.renew()
    assert followed.current.expires == made.expires


def test_files_that_are_gone_keep_the_old_ones(made: Certified) -> None:
    followed = made.certificates(mutual=True)
    before = followed.current
    made.ca.unlink()
    followed.renew()
    assert followed.current is before
    assert made.refused == 1


def test_one_whose_authority_changes_is_asked_by_the_new_one(made: Certified) -> None:
    followed = made.certificates(mutual=True)
    before = followed.current.client_ca
    trustme.CA().cert_pem.write_to_path(made.ca)
    followed.renew()
    assert followed.current.client_ca == made.ca.read_bytes() != before


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"tls_cert": "a"}, "neither goes without the other"),
        ({"tls_key": "a"}, "neither goes without the other"),
        ({"tls_client_ca": "a"}, "--tls-client-ca: needs"),
        ({"tls_cert": "a", "tls_key": "a", "tls_client_auth": "optional"}, "needs --tls-client-ca"),
        ({"tls_client_auth": "maybe"}, "--tls-client-auth: "),
    ],
)
def test_settings_that_lack_another_are_told(flags: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_config({"model_repository": "m", **flags}, {})


def test_certificate_whose_public_key_is_none_is_told_and_keeps_the_old_one(
    made: Certified,
) -> None:
    certificates = made.certificates()
    before = certificates.current
    whole = x509.load_pem_x509_certificate(made.cert.read_bytes())
    point = whole.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    damaged = whole.public_bytes(Encoding.DER).replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    text = base64.encodebytes(damaged).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
    made.write(made.cert, pem.encode())
    certificates.renew()
    assert (certificates.current, made.refused) == (before, 1)
    with pytest.raises(StartError, match=r"server\.key cannot be used: ValueError: "):
        made.certificates()


def test_half_of_a_list_of_authorities_is_not_taken_although_it_is_in_order(
    made: Certified,
) -> None:
    certificates = made.certificates(mutual=True)
    before = certificates.current
    more = made.strangers_authority
    whole = made.ca.read_bytes() + more
    for part in (more, whole):
        made.ca.write_bytes(part)
        certificates.look()
        assert certificates.current is before
    certificates.look()
    assert certificates.current.client_ca == whole

"""The names in a certificate."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from serving.server.tls.peer import names_of
from tests.support.certified import CLIENT_NAMES, Certified


def test_names_are_the_same_in_both_forms_and_keep_their_kind(tmp_path: Path) -> None:
    pem = Path(Certified(tmp_path / "tls").tls.cert or "").read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert names_of(pem) == names_of(der) == CLIENT_NAMES


def test_a_certificate_without_alternative_names_has_its_subject(tmp_path: Path) -> None:
    made = Certified(tmp_path / "tls")
    [name] = names_of(made.authority.cert_pem.bytes())
    assert name.startswith("SUBJECT:")


def test_what_cannot_be_read_has_no_names(tmp_path: Path) -> None:
    pem = Path(Certified(tmp_path / "tls").tls.cert or "").read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert names_of(b"") == names_of(pem[:200]) == names_of(der[:-1]) == ()
    for at in range(0, len(der), 7):  # whatever it is read as, nothing is raised
        names_of(der[:at] + bytes([der[at] ^ 0x55]) + der[at + 1 :])

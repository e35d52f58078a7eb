"""Certificates of an authority that lives for one test."""

import datetime
import ipaddress
from dataclasses import replace
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serving.base.metrics import FrontMetrics
from serving.client import ClientTls
from serving.server.tls.certificates import Certificates

SPIFFE = "spiffe://example.org/ns/vision/sa/caller"
# Names of each kind, as a server reports those of `Certified.client`.
CLIENT_NAMES = (
    f"URI:{SPIFFE}",
    "DNS:caller.example",
    "IP:192.0.2.7",
    "EMAIL:caller@example.org",
    "SUBJECT:CN=caller,O=Example",
)


def _client_certificate(authority: trustme.CA, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """With names of every kind: trustme writes no URI."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    name = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
        x509.NameAttribute(NameOID.COMMON_NAME, "caller"),
    ]
    names = [
        x509.UniformResourceIdentifier(SPIFFE),
        x509.DNSName("caller.example"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.RFC822Name("caller@example.org"),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )


class Certified:
    """An authority, and in a folder the files of a server and of a client that it has signed.

    metrics: of `certificates`.
    tls: of a client that has both.
    stranger: of one whose certificate another authority has signed.
    strangers_authority: that one, PEM.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.metrics = FrontMetrics()
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.authority.cert_pem.write_to_path(self.ca)
        self.renew()
        self.tls = self._client(self.authority, "client")
        stranger = trustme.CA()
        self.stranger = self._client(stranger, "stranger")
        self.strangers_authority = stranger.cert_pem.bytes()

    def _client(self, authority: trustme.CA, name: str) -> ClientTls:
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        private = ec.generate_private_key(ec.SECP256R1())
        cert.write_bytes(_client_certificate(authority, private).public_bytes(Encoding.PEM))
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return ClientTls(self.ca, cert, key)

    def renew(self, *names: str, days: float = 30) -> None:
        """Writes another certificate of the server, as a tool that renews it does."""
        now = datetime.datetime.now(datetime.UTC)
        expires = now + datetime.timedelta(days=days)
        issued = self.authority.issue_cert(
            *(names or ("localhost", "127.0.0.1")),
            not_before=min(now, expires) - datetime.timedelta(days=1),
            not_after=expires,
        )
        self.write(self.key, issued.private_key_pem.bytes())
        self.write(self.cert, b"".join(one.bytes() for one in issued.cert_chain_pems))

    def other_authority(self) -> None:
        """Lets another authority sign the server's certificate."""
        self.authority = trustme.CA()
        self.write(self.ca, self.authority.cert_pem.bytes())
        self.renew()

    def write(self, file: Path, data: bytes) -> None:
        """Puts a file in the place of another in one step."""
        new = file.with_suffix(".new")
        new.write_bytes(data)
        new.replace(file)

    @property
    def stranger_key(self) -> bytes:
        """A key that fits to no certificate of the server."""
        assert self.stranger.key is not None
        return self.stranger.key.read_bytes()

    def other_name(self) -> ClientTls:
        """A client that expects another server."""
        return replace(self.tls, server_name="elsewhere.example")

    @property
    def trusting(self) -> ClientTls:
        """A client without a certificate."""
        return ClientTls(self.ca)

    @property
    def refused(self) -> float:
        """1 while the files of the server do not fit."""
        return self.metrics.certificate_failed.labels().numbers()[0]

    @property
    def expires(self) -> float:
        """When the server's certificate does, seconds since 1970."""
        found = x509.load_pem_x509_certificate(self.cert.read_bytes())
        return found.not_valid_after_utc.timestamp()

    def flags(self, *more: str) -> tuple[str, ...]:
        """Of a server."""
        return ("--tls-cert", str(self.cert), "--tls-key", str(self.key), *more)

    def mutual(self, *more: str) -> tuple[str, ...]:
        """Of a server whose callers need a certificate."""
        return self.flags("--tls-client-ca", str(self.ca), *more)

    def certificates(self, *, mutual: bool = False, required: bool = True) -> Certificates:
        """Of a port."""
        ca = self.ca if mutual else None
        return Certificates(self.cert, self.key, ca, self.metrics, required=required)

"""The server's certificate and the authorities of its callers', in files that are followed."""

import asyncio
import datetime
import logging
import os
import ssl
import stat
import time
from pathlib import Path
from typing import Literal, NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from serving.base.metrics import FrontMetrics
from serving.base.text import one_line
from serving.base.turns import Readers
from serving.server.config import ServerConfig, StartError

logger = logging.getLogger(__name__)

Port = Literal["grpc", "http", "metrics"]

# Seconds between two looks at the files. Shorter takes a new certificate sooner.
_LOOK_SECONDS = 1.0
# Bytes of a file. A bundle of all public authorities has 250 KB.
_LARGEST = 2 << 20
# Of TLS 1.2; those of 1.3 are all sound. AEAD alone, which HTTP/2 wants, and forward secrecy.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_ALPN: dict[Port, list[str]] = {"grpc": ["h2"], "http": ["http/1.1"], "metrics": ["http/1.1"]}


class BadFiles(Exception):
    """Files that do not fit; the text names flag, file and fault."""


class Served(NamedTuple):
    """All that a new connection needs.

    certificate, key, client_ca: PEM; no client_ca asks no caller for a certificate.
    contexts: of the ports that Python's ssl serves.
    expires: when the first certificate of the chain does, seconds since 1970.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes
    contexts: dict[Port, ssl.SSLContext]
    expires: float


class Certificates:
    """Follows the files, and keeps the last that fit. Connections keep those that they began with.

    current: those that new connections get.
    required: callers must have a certificate, but for probes.
    turns: of handshakes, which take the event loop up to a millisecond each.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None,
        metrics: FrontMetrics,
        *,
        required: bool = True,
    ) -> None:
        """Raises StartError where the files do not fit."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.required = required and client_ca is not None
        self.turns = Readers()
        self._expires = metrics.certificate_expiry.labels()
        self._failed = metrics.certificate_failed.labels()
        self._stamps = self._seen = self._look()
        try:
            self.current = self._load()
        except BadFiles as fault:
            raise StartError(str(fault)) from fault
        self._expires.set(self.current.expires)
        self._failed.set(0)

    @classmethod
    def of(cls, config: ServerConfig, metrics: FrontMetrics) -> Self | None:
        """Those of the settings; None without TLS. Raises StartError."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        required = config.tls_client_auth == "require"
        files = (config.tls_cert, config.tls_key, config.tls_client_ca)
        return cls(*files, metrics, required=required)

    async def follow(self) -> None:
        """Looks at the files again and again."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Renews, unless the files have changed since the last look: half of a chain or of a list
        of authorities may be in order, and turn callers away."""
        stamps, seen = self._look(), self._seen
        self._seen = stamps
        if stamps == seen:
            self.renew()

    def renew(self) -> None:
        """Takes the files where they have changed and fit. Else the log and a metric tell."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        try:
            found = self._load()
        except BadFiles as fault:
            self._stamps = stamps
            self._failed.set(1)
            logger.error("the certificate in use is kept", extra={"reason": str(fault)})
            return
        if self._look() != stamps:  # written meanwhile: the parts may be of two certificates
            return
        self._stamps, self.current = stamps, found
        self._expires.set(found.expires)
        self._failed.set(0)
        logger.info("new certificate", extra={"expires": _date(found.expires)})

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """Tells files from those that were there before."""
        paths = (self._certificate, self._key, self._client_ca)
        return tuple(_stamp(path) for path in paths if path is not None)

    def _load(self) -> Served:
        """Reads and checks everything. Raises BadFiles."""
        certificate = _read("--tls-cert", self._certificate)
        key = _read("--tls-key", self._key)
        try:
            expires = self._check(certificate, key)
        except BadFiles:
            raise
        except Exception as error:  # a point that is on no curve, a time that there is not
            reason = one_line(f"{type(error).__name__}: {error}")
            raise BadFiles(
                f"--tls-cert: {self._certificate} and {self._key} cannot be used: {reason}"
            ) from error
        client_ca = authorities = b""
        if self._client_ca is not None:
            client_ca = _read("--tls-client-ca", self._client_ca)
            found = _certificates("--tls-client-ca", self._client_ca, client_ca)
            authorities = b"".join(one.public_bytes(Encoding.DER) for one in found)
        contexts = {port: self._context(port, authorities) for port in _ALPN}
        return Served(certificate, key, client_ca, contexts, expires)

    def _check(self, certificate: bytes, key: bytes) -> float:
        """When the chain expires. Raises BadFiles for one that has, and for another's key."""
        where = f"--tls-key: {self._key}"
        chain = _certificates("--tls-cert", self._certificate, certificate)
        try:
            private = load_pem_private_key(key, None)
        except TypeError as error:
            raise BadFiles(f"{where} is encrypted: expected a key without a passphrase") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadFiles(f"{where}: expected a private key in PEM form") from error
        if private.public_key() != chain[0].public_key():
            raise BadFiles(
                f"{where} is not the key of the (first) certificate in {self._certificate}"
            )
        expires = min(one.not_valid_after_utc for one in chain).timestamp()
        if expires <= time.time():
            raise BadFiles(f"--tls-cert: {self._certificate} expired on {_date(expires)}")
        return expires

    def _context(self, port: Port, authorities: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(_ALPN[port])
        try:
            # Without a passphrase, OpenSSL would ask the terminal for it.
            context.load_cert_chain(self._certificate, self._key, lambda: "")
            if authorities:
                context.load_verify_locations(cadata=authorities)
        except (OSError, ValueError) as error:  # too weak, or written meanwhile
            reason = getattr(error, "reason", None) or error
            raise BadFiles(f"--tls-cert: {self._certificate} is not taken: {reason}") from error
        if authorities:
            # An authority below another one may be trusted alone, as gRPC has it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            # Probes have no certificate; the metrics port asks others for it by itself.
            must = self.required and port != "metrics"
            context.verify_mode = ssl.CERT_REQUIRED if must else ssl.CERT_OPTIONAL
        return context


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _read(flag: str, path: Path) -> bytes:
    """The content of a file. Raises BadFiles."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadFiles(f"{flag}: {path} is not a file")
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise BadFiles(f"{flag}: {path} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise BadFiles(f"{flag}: {path} has more than {_LARGEST} bytes")
    return data


def _certificates(flag: str, path: Path, data: bytes) -> list[x509.Certificate]:
    """All certificates of a file, one at least. Raises BadFiles."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except Exception as error:  # parsers of certificates raise more than they document
        raise BadFiles(f"{flag}: {path}: expected certificates in PEM form") from error
    return found


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")

"""TLS from the side of a caller: whom it trusts, what it proves, and why it does not come through.

URLs: HOST:PORT, grpcs://HOST:PORT or https://HOST:PORT with TLS, grpc:// or http:// without.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

# Seconds that each step of the look at a server may take that calls do not reach.
_LOOK_SECONDS = 2.0
# Codes of OpenSSL for a certificate of another name or address, and for one that has expired.
_OTHER_NAME = (62, 64)
_EXPIRED = 10
# Its reasons where the other side answers with something else than TLS.
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "UNSUPPORTED_PROTOCOL",
)


class BadTls(ValueError):
    """A file of ClientTls that cannot be used; the text names it."""


@dataclass(frozen=True)
class ClientTls:
    """How a client speaks TLS. The commands have each as --tls-...

    ca: PEM file of the authorities that may have signed the server's certificate; None takes those
        of this machine.
    cert, key: PEM files of the client's own certificate and its key; None has none.
    server_name: name that the server's certificate must have; empty takes that of the URL.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """For Python's ssl. Raises BadTls."""
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.name = self.server_name
        if (self.cert is None) != (self.key is None):
            raise BadTls("cert and key (--tls-cert, --tls-key): neither goes without the other")
        if self.ca is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                raise BadTls(_unusable("certificates", self.ca, error)) from error
        if self.cert is not None and self.key is not None:
            for file in (self.cert, self.key):
                _content(file)  # of two files, OpenSSL does not say which one is missing
            try:
                context.load_cert_chain(self.cert, self.key, lambda: "")
            except (OSError, ValueError) as error:
                files = f"{self.cert} and {self.key}"
                raise BadTls(_unusable("a certificate and its key", files, error)) from error
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC. Raises BadTls."""
        self.context()
        files = (self.ca, self.key, self.cert)
        return grpc.ssl_channel_credentials(*(_content(file) if file else None for file in files))


class _Context(ssl.SSLContext):
    """Checks the server's certificate for `name`, where that is given, whatever its address."""

    name = ""

    def wrap_socket(self, *given: Any, **named: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*given, **self._named(named))

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(*given, **self._named(named))

    def _named(self, named: dict[str, Any]) -> dict[str, Any]:
        return {**named, "server_hostname": self.name} if self.name else named


def _content(file: Path | str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise BadTls(f"{file} cannot be read: {error.strerror}") from error


def _unusable(expected: str, file: object, error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"{file} cannot be read: {error.strerror}"
    return f"{file}: expected {expected} in PEM form, without a passphrase ({error})"


def tls_for(url: str, tls: ClientTls | None) -> ClientTls | None:
    """The TLS of a connection to `url`, by its scheme or else as given; None for none."""
    if url.startswith(("grpcs://", "https://")):
        return tls or ClientTls()
    # All else is a target of gRPC, such as dns:///host:port.
    return None if url.startswith(("grpc://", "http://")) else tls


def channel_to(
    url: str, tls: ClientTls | None, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    """A channel to a server. Raises BadTls."""
    used = tls_for(url, tls)
    target = url.partition("://")[2] if url.startswith(("grpc://", "grpcs://")) else url
    if used is None:
        return grpc.aio.insecure_channel(target, options=options)
    named = [("grpc.ssl_target_name_override", used.server_name)] if used.server_name else []
    return grpc.aio.secure_channel(target, used.credentials(), options=[*options, *named])


def fault_of(url: str, tls: ClientTls | None) -> str:
    """Why TLS keeps calls from reaching a server, as a line that says what to do; empty where it
    does not. Connects to the server, and takes 4 s at most."""
    used = tls_for(url, tls)
    try:
        target = url.removeprefix("dns:///")
        parts = urlsplit(target if "://" in target else f"grpc://{target}")
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((host, port), _LOOK_SECONDS) as connection:
            return _of_tls(connection, host, used) if used else _of_plain(connection)
    except (OSError, ValueError):  # nobody listens, or not a URL: the call itself says so
        return ""


def _of_plain(connection: socket.socket) -> str:
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        anyone.wrap_socket(connection).close()
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return ""
    return (
        "the server speaks TLS on this port: give tls (--tls), and where its authority is not a "
        "public one, ca (--tls-ca)"
    )


def _of_tls(connection: socket.socket, host: str, tls: ClientTls) -> str:
    context = tls.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        secured = context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return _of_certificate(error, tls.server_name or host)
    except ssl.SSLError as error:
        return _of_handshake(error.reason or str(error), tls)
    except OSError:  # it hung up
        return _no_tls()
    with secured:
        try:
            # By TLS 1.3, the server judges the client's certificate after the handshake.
            hung_up = not secured.recv(1)
        except TimeoutError:
            return ""
        except ssl.SSLError as error:
            return _of_handshake(error.reason or str(error), tls)
        except OSError:
            hung_up = True
    return _of_handshake("hung up", tls) if hung_up else ""


def _of_certificate(error: ssl.SSLCertVerificationError, name: str) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            f"the server's certificate is not for {name}: call the server by a name that the "
            "certificate has, or give that as server_name (--tls-server-name)"
        )
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired: the server needs a new one"
    return (
        f"the server's certificate is signed by nobody who is trusted here ({error.verify_message})"
        ": give the file of its authority as ca (--tls-ca)"
    )


def _of_handshake(reason: str, tls: ClientTls) -> str:
    if reason in _NO_TLS or "EOF" in reason:
        return _no_tls()
    if tls.cert is None:
        return (
            "the server wants a client certificate: give cert and key (--tls-cert, --tls-key)"
            f" ({reason})"
        )
    return (
        "the server does not take the client's certificate: expected one that an authority of its "
        f"--tls-client-ca has signed ({reason})"
    )


def _no_tls() -> str:
    return "the server does not speak TLS on this port: leave tls (--tls) and https:// out"

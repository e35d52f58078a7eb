"""The names in a caller's certificate, the same on every wire."""

import functools
from typing import Any

from cryptography import x509

_KINDS: dict[type[Any], str] = {
    x509.UniformResourceIdentifier: "URI",
    x509.DNSName: "DNS",
    x509.RFC822Name: "EMAIL",
    x509.IPAddress: "IP",
}


# Of as many callers as connect at a time; a certificate takes 50 us.
@functools.lru_cache(4096)
def names_of(certificate: bytes) -> tuple[str, ...]:
    """The names of a certificate in PEM or DER form, which was verified: its alternative names
    (SAN) in their order, "URI:spiffe://example.org/ns/a", "DNS:a.example", "IP:192.0.2.1" or
    "EMAIL:a@example.org", then its subject by RFC 4514, "SUBJECT:CN=a,O=b", where it has one. None
    where they cannot be read."""
    try:
        if certificate.startswith(b"-----"):
            found = x509.load_pem_x509_certificate(certificate)
        else:
            found = x509.load_der_x509_certificate(certificate)
        subject = found.subject.rfc4514_string()
        names = [*_alternative(found), *([f"SUBJECT:{subject}"] if subject else ())]
    except Exception:  # parsers of certificates raise more than they document
        return ()
    return tuple(names)


def _alternative(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [f"{kind}:{name.value}" for name in extension.value if (kind := _KINDS.get(type(name)))]

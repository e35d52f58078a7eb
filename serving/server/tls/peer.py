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
    "EMAIL:a@example.org", then its subject by RFC 4514, "SUBJECT:CN=a,O=b", where it has one. A
    part that cannot be read gives none."""
    try:
        if certificate.startswith(b"-----"):
            found = x509.load_pem_x509_certificate(certificate)
        else:
            found = x509.load_der_x509_certificate(certificate)
        names = [
            f"{kind}:{name.value}"
            for name in found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if (kind := _KINDS.get(type(name)))
        ]
    except x509.ExtensionNotFound:
        names = []
    except ValueError:
        return ()
    subject = found.subject.rfc4514_string()
    return (*names, f"SUBJECT:{subject}") if subject else tuple(names)

"""TLS of grpc.aio."""

import grpc

from serving.server.config import StartError
from serving.server.tls.certificates import Certificates, Served


def credentials_of(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials by which each new connection gets the certificate that is in use then. Raises
    StartError for what grpcio cannot do."""
    last = certificates.current
    if last.client_ca and not certificates.required:
        raise StartError(
            "--tls-client-auth optional: the grpcio wire requires a certificate or asks for none; "
            "--wire native takes both (the extra `native` of convserve)"
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked for each handshake, on a thread of gRPC's: None where nothing has changed."""
        nonlocal last
        found = certificates.current
        if found is last:
            return None
        last = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(last),
        renewed,  # type: ignore[arg-type]  # gRPC documents None
        require_client_authentication=certificates.required,
    )


def _configuration(served: Served) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(served.key, served.certificate)], served.client_ca or None
    )

"""TLS on the ports: the server's certificate, those of its callers, and the bytes in between."""

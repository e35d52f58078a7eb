"""What a client takes for TLS, and for files of it."""

import socket
from pathlib import Path

import pytest

from serving.client import AsyncVisionClient, BadTls, CallFailed, ClientTls, VisionClient
from serving.client.tls import fault_of, tls_for
from tests.support.certified import Certified

TLS = ClientTls(server_name="a.example")


@pytest.mark.parametrize(
    ("url", "given", "used"),
    [
        ("a:1", None, None),
        ("a:1", TLS, TLS),
        ("grpcs://a:1", None, ClientTls()),
        ("grpcs://a:1", TLS, TLS),
        ("https://a:1", TLS, TLS),
        ("grpc://a:1", TLS, None),
        ("http://a:1", TLS, None),
        ("dns:///a:1", TLS, TLS),
        ("ipv4:192.0.2.1:1", TLS, TLS),
        ("dns:///a:1", None, None),
    ],
)
def test_the_scheme_of_a_url_decides_and_else_what_was_given(
    url: str, given: ClientTls | None, used: ClientTls | None
) -> None:
    assert tls_for(url, given) == used


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    made = Certified(tmp_path / "tls")
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    for tls, says in (
        (ClientTls(missing), f"{missing} cannot be read"),
        (ClientTls(text), f"{text}: expected certificates in PEM form"),
        (ClientTls(cert=made.cert), "neither goes without the other"),
        (ClientTls(cert=made.cert, key=missing), f"{missing} cannot be read"),
        (ClientTls(cert=made.cert, key=text), f"{made.cert} and {text}: expected a certificate"),
        (ClientTls(cert=made.cert, key=made.tls.key), "expected a certificate and its key"),
    ):
        for make in (VisionClient, AsyncVisionClient):
            with pytest.raises(BadTls) as refused:
                make("127.0.0.1:1", tls=tls)
            assert says in str(refused.value)


def test_a_server_that_is_not_there_has_no_fault_of_tls() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert fault_of(url, None) == fault_of(f"grpcs://{url}", TLS) == ""
        with VisionClient(url, retries=0) as client, pytest.raises(CallFailed) as failed:
            client.model_info("a")
        assert failed.value.code == "UNAVAILABLE"
    for url in ("unix:/nowhere", "a:b:c", "https://", "[::1"):
        assert fault_of(url, TLS) == ""

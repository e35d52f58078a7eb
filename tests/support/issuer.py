"""An issuer of JSON Web Tokens: its keys, its tokens, and a real HTTP server of its key set."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "convserve"


class Issuer:
    """Signs tokens with EC keys by id, and publishes those in `published`.

    fetches: times at which the key set was fetched, seconds on the monotonic clock.
    status: of its answers; other than 200 it publishes nothing.
    body: sent in the place of the key set, where it is set.
    piece: bytes of a body after which it waits until `go_on` is set; 0 for no wait.
    """

    def __init__(self) -> None:
        self.url = ""
        self.fetches: list[float] = []
        self.fetched = threading.Condition()
        self.status = 200
        self.body: bytes | None = None
        self.piece = 0
        self.go_on = threading.Event()
        self._keys: dict[str, Any] = {}
        self.published: list[str] = []
        self.add("first")

    def add(self, kid: str) -> None:
        """Makes a key, and publishes it."""
        self._keys[kid] = ec.generate_private_key(ec.SECP256R1())
        self.published.append(kid)

    def key_set(self) -> dict[str, Any]:
        """What it publishes."""
        return {
            "keys": [
                {"kid": kid, "use": "sig", "alg": "ES256"}
                | json.loads(ECAlgorithm.to_jwk(self._keys[kid].public_key()))
                for kid in self.published
            ]
        }

    def token(self, subject: str = "alice", kid: str = "first", **claims: Any) -> str:
        """A token, by default good for a minute. A claim of None is left out."""
        now = int(time.time())
        given = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": now + 60} | claims
        kept = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(kept, self._keys[kid], "ES256", headers={"kid": kid})

    def wait_for_fetch(self, number: int) -> None:
        """Returns when the set was fetched so often."""
        with self.fetched:
            assert self.fetched.wait_for(lambda: len(self.fetches) >= number, 20)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Of its HTTP server."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = issuer.body
                if body is None:
                    body = json.dumps(issuer.key_set()).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if issuer.piece:
                    self.wfile.write(body[: issuer.piece])
                    issuer.go_on.wait(20)
                    return
                self.wfile.write(body)
                with issuer.fetched:
                    issuer.fetches.append(time.monotonic())
                    issuer.fetched.notify_all()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        return Handler


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer whose key set is at its `url`."""
    issuer = Issuer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), issuer.handler())
    issuer.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def symmetric(kid: str, secret: bytes) -> dict[str, str]:
    """A symmetric key as a set has it."""
    return {"kty": "oct", "kid": kid, "k": base64.urlsafe_b64encode(secret).decode().rstrip("=")}


def rsa_key(bits: int = 2048) -> tuple[Any, dict[str, Any]]:
    """A private RSA key, and its public half as a set has it, without its algorithm."""
    private = rsa.generate_private_key(65537, bits)
    return private, json.loads(RSAAlgorithm.to_jwk(private.public_key()))

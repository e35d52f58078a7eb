"""W0-auth: what it costs to know who calls, and TLS, in CPU of the server a call.

Every subject serves the same model to the same load. Identity includes a policy, a limit of the
caller and the record, in which the calls that succeed leave no line.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.speed import measure
from benchmarks.serving.speed.rounds import Bar, Case, Measurement
from serving.server.access.keys import ApiKey, digest_of, new_key
from tests.support.certified import SPIFFE, Certified
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.process import ServerProcess

# Microseconds of CPU that a call may cost more.
_IDENTITY, _TLS = 15.0, 25.0
_CALLERS = (8, 32)
_TOKEN_SECONDS = 86_400
_POLICY = f"""
groups:
  callers:
    members: [key:caller, jwt:caller, "cert:URI:{SPIFFE}"]
    rights:
      - {{models: ["*"], actions: [infer, metadata, statistics]}}
    limits:
      requests_per_second: 1000000
      calls: 4096
      images_per_day: 1000000000000
"""


class Subject(NamedTuple):
    """A server, and who calls it.

    flags: of the load tester.
    bar: None for the one beside which others are measured first.
    """

    url: str
    flags: tuple[str, ...]
    bar: Bar | None


Subjects = dict[str, Subject]


def start(
    root: Path,
    repository: Path,
    cache: Path,
    urls: Mapping[str, str],
    made: Certified,
    stack: ExitStack,
) -> Subjects:
    """Starts two servers that know their callers, one with TLS, beside those of `urls`, which do
    not."""
    key, token = root / "key", root / "token"
    keys, policy, jwks = root / "keys", root / "policy.yaml", root / "jwks.json"
    key.write_text(new_key())
    keys.write_text(ApiKey("caller", digest_of(key.read_text())).line() + "\n")
    policy.write_text(_POLICY)
    issuer = Issuer()
    jwks.write_text(json.dumps(issuer.key_set()))
    token.write_text(issuer.token("caller", exp=int(time.time()) + _TOKEN_SECONDS))
    access = (
        *("--api-keys", str(keys), "--policy", str(policy)),
        *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-jwks", str(jwks)),
    )
    plain = ServerProcess(repository, *access, cache=cache)
    stack.callback(plain.kill)
    flags = made.mutual("--tls-client-auth", "optional", *access)
    secured = ServerProcess(repository, *flags, cache=cache, context=made.trusting.context())
    stack.callback(secured.kill)
    open_url, tls_url = plain.wait_ready().url, f"grpcs://{secured.wait_ready().url}"
    by_key, by_token = ("--api-key-file", str(key)), ("--token-file", str(token))
    trust = ("--tls-ca", str(made.ca))
    proof = ("--tls-cert", str(made.tls.cert), "--tls-key", str(made.tls.key))
    return {
        "ours": Subject(urls["ours"], (), None),
        "API key": Subject(open_url, by_key, Bar("ours", _IDENTITY)),
        "JWT": Subject(open_url, by_token, Bar("ours", _IDENTITY)),
        "TLS": Subject(urls["ours, TLS"], trust, Bar("ours", _TLS)),
        "TLS, API key": Subject(tls_url, (*trust, *by_key), Bar("TLS", _IDENTITY)),
        "TLS, JWT": Subject(tls_url, (*trust, *by_token), Bar("TLS", _IDENTITY)),
        "TLS, certificate": Subject(tls_url, (*trust, *proof), Bar("TLS", _IDENTITY)),
    }


def cases(subjects: Subjects, model: str) -> Iterator[Case]:
    """A row for each subject and number of callers."""
    for concurrency in _CALLERS:
        for name, subject in subjects.items():
            run = partial(_load, subject, model, concurrency)
            yield Case(f"W0-auth unary, {concurrency} callers", name, run, bar=subject.bar)


def _load(subject: Subject, model: str, concurrency: int, seconds: float) -> Measurement:
    flags = ("--api", "oip", *subject.flags)
    return measure.load(subject.url, model, concurrency, seconds, *flags)

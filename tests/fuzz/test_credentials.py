"""Whatever a caller shows, he is who proved it or nobody, and a line of the record is one line."""

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from serving.base.errors import Unauthenticated
from serving.base.metrics import FrontMetrics
from serving.server.access.audit import Audit, Entry
from serving.server.access.caller import API_KEY, AUTHORIZATION, Caller
from serving.server.access.door import Door
from serving.server.access.followed import Followed
from serving.server.access.identity import Identities
from serving.server.access.keys import ApiKey, ApiKeys, digest_of, parse_keys
from serving.server.access.tokens import Tokens
from serving.server.access_config import JwtSettings
from serving.server.wire.native.headers import metadata_of
from tests.fuzz.changed import changed, check_text
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.mutation import changed_bytes, changed_document
from tests.support.recorded import recorded

METRICS = FrontMetrics()
SECRET = "convserve_" + "s" * 43
ISSUED = Issuer()
CLAIMS = {
    "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": 4_000_000_000, "nbf": 1, "iat": 1,
    "roles": ["ops", "lab"],
}  # fmt: skip
HEADER = {"alg": "ES256", "typ": "JWT", "kid": "first"}


class NoAdmins:
    def identity(self, caller: Caller) -> str | None:
        return None


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    file = tmp_path_factory.mktemp("tokens") / "keys.json"
    file.write_text(json.dumps(ISSUED.key_set()))
    algorithms = ["ES256", "RS256", "EdDSA"]
    made = Tokens(JwtSettings(ISSUER, AUDIENCE, str(file), algorithms, "roles"),
                  METRICS.access_failures)  # fmt: skip
    asyncio.run(made.start())
    return made


@pytest.fixture(scope="module")
def door(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Door:
    file: Path = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(ApiKey("clinic", digest_of(SECRET)).line() + "\n")
    keys = Followed(
        "--api-keys", file, lambda text: ApiKeys(parse_keys(text)), METRICS.access_failures
    )
    identities = Identities(NoAdmins(), tokens, keys, certificates=True)
    return Door(identities, None, None, METRICS, known_alone=True)


def coded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def signed(header: Any, claims: Any) -> bytes:
    """A token of the issuer's, whatever it says."""
    told = coded(json.dumps(header).encode()) + b"." + coded(json.dumps(claims).encode())
    key = ISSUED._keys["first"]
    return told + b"." + coded(ECAlgorithm(ECAlgorithm.SHA256).sign(told, key))


def changed_token(rng: random.Random, parts: tuple[Any, Any]) -> bytes:
    """Another text, another header or other claims, of which the latter are signed."""
    header, claims = parts
    what = rng.randrange(4)
    if what == 0:
        return changed_bytes(rng, signed(header, claims))
    if what == 1:
        return signed(changed_document(rng, header), claims)
    return signed(header, changed_document(rng, claims))


def check_refusal(error: Unauthenticated) -> None:
    """It says no more than it must, and holds no token."""
    assert str(error) in ("the bearer token is not accepted", "the bearer token has expired")
    assert error.__context__ is None


def check_quiet(error: Unauthenticated) -> None:
    check_text(error)
    assert SECRET not in str(error)


@settings(settings.get_profile("fuzz"))
@given(token=changed([(HEADER, CLAIMS)], changed_token))
@example(token=signed(HEADER, CLAIMS))
@example(token=signed({**HEADER, "kid": "../../../../etc/passwd"}, CLAIMS))
@example(token=signed({**HEADER, "kid": "x" * 5000}, CLAIMS))
@example(token=signed({**HEADER, "crit": ["b64"], "b64": False}, CLAIMS))
@example(token=signed({**HEADER, "jku": "http://127.0.0.1:1", "jwk": {}, "x5u": "a"}, CLAIMS))
@example(token=signed({**HEADER, "alg": "none"}, CLAIMS).rpartition(b".")[0] + b".")
@example(token=signed({**HEADER, "alg": "HS256"}, CLAIMS))
@example(token=signed({**HEADER, "alg": ["ES256"]}, CLAIMS))
@example(token=signed(HEADER, {**CLAIMS, "exp": float("inf")}))
@example(token=signed(HEADER, {**CLAIMS, "exp": float("nan")}))
@example(token=signed(HEADER, {**CLAIMS, "exp": 10**400}))
@example(token=signed(HEADER, {**CLAIMS, "exp": "4000000000"}))
@example(token=signed(HEADER, {**CLAIMS, "exp": True}))
@example(token=signed(HEADER, {**CLAIMS, "nbf": 10**300}))
@example(token=signed(HEADER, {**CLAIMS, "sub": "a\nb"}))
@example(token=signed(HEADER, {**CLAIMS, "sub": "\u202egpj.exe"}))
@example(token=signed(HEADER, {**CLAIMS, "sub": "\u0430lice"}))  # looks like an a
@example(token=signed(HEADER, {**CLAIMS, "sub": "\ud800"}))
@example(token=signed(HEADER, {**CLAIMS, "aud": [AUDIENCE] * 500}))
@example(token=coded(b"[" * 5000) + b"." + coded(b"[" * 1000) + b".")
@example(token=b"." * 8000)
@example(token=b"=" * 8000)
def test_a_token(tokens: Tokens, token: bytes) -> None:
    text = token.decode("latin-1")
    try:
        found = tokens.identity(text)
    except Unauthenticated as error:
        check_refusal(error)
        return
    claims = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))
    assert (claims["iss"], found.name) == (ISSUER, f"jwt:{claims['sub']}")
    assert AUDIENCE in claims["aud"]
    assert float(claims["exp"]) > time.time() - 10
    roles = claims.get("roles")
    roles = [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else []
    assert found.names == (found.name, *(f"role:{role}" for role in roles))
    assert all(name.isprintable() and len(name) <= 300 for name in found.names)


GOOD = f"Bearer {signed(HEADER, CLAIMS).decode()}"
SCHEMES = ("Bearer ", "bearer  ", "BEARER\t", "Basic ", "Bearer,", "", "Bearer Bearer ")
values = st.one_of(
    st.text(st.characters(codec="latin-1"), max_size=60),
    st.builds(str.__add__, st.sampled_from(SCHEMES), st.text(st.characters(codec="ascii"))),
    st.sampled_from([GOOD, SECRET, GOOD[:-2], SECRET.upper(), f"{SECRET},{SECRET}", f" {SECRET} "]),
)


@settings(settings.get_profile("fuzz"))
@given(
    shown=st.lists(
        st.tuples(st.sampled_from([AUTHORIZATION, API_KEY, "X-Api-Key"]), values), max_size=4
    ),
    certificate=st.one_of(st.none(), st.lists(st.text(max_size=400), max_size=3).map(tuple)),
)  # fmt: skip
@example(shown=[(AUTHORIZATION, GOOD), (AUTHORIZATION, GOOD)], certificate=None)
@example(shown=[(AUTHORIZATION, ""), (AUTHORIZATION, GOOD)], certificate=None)
@example(shown=[(API_KEY, SECRET), (API_KEY, "x")], certificate=None)
@example(shown=[(AUTHORIZATION, ""), (AUTHORIZATION, GOOD), (API_KEY, SECRET)], certificate=None)
@example(shown=[(AUTHORIZATION, "Bearer x"), (API_KEY, SECRET)], certificate=None)
@example(shown=[(AUTHORIZATION, GOOD), (API_KEY, SECRET)], certificate=("DNS:a\nb", "DNS:a"))
@example(shown=[(API_KEY, SECRET)], certificate=("DNS:" + "a" * 300,))
@example(shown=[(API_KEY, SECRET)], certificate=())
@example(shown=[(AUTHORIZATION, "x" * 100_000)], certificate=None)
def test_what_a_call_shows(
    door: Door, shown: list[tuple[str, str]], certificate: tuple[str, ...] | None
) -> None:
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in shown]
    authorization, key = (",".join(metadata_of(headers, name)) for name in (AUTHORIZATION, API_KEY))
    try:
        visit = door.visit(Caller("192.0.2.1", authorization, certificate, key))
    except Unauthenticated as error:
        check_quiet(error)
        return
    scheme, _, token = authorization.partition(" ")
    # Of two headers, of which the first is empty, the scheme is none: ",Bearer".
    by_token = scheme.lower() == "bearer" and token.strip() == GOOD.partition(" ")[2]
    if certificate is not None:
        taken = [name for name in certificate if 0 < len(name) <= 256 and name.isprintable()]
        assert visit.name == f"cert:{taken[0]}"
    elif by_token:
        assert visit.name == "jwt:alice"
    else:
        assert visit.name == "key:clinic"
        assert key.strip() == SECRET
        assert scheme.lower() != "bearer"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    with recorded() as stream:
        yield stream


@settings(settings.get_profile("fuzz"))
@given(texts=st.lists(st.text(), min_size=9, max_size=9))
@example(texts=["\n{}"] * 9)
@example(texts=["\x1b[2J\r\u2028\u202e\0\ud800"] * 9)
@example(texts=["x" * 1_000_000] * 9)
@example(texts=["127.0.0.1", "fe80::1%eth0", *["::"] * 7])
def test_a_line_of_the_record(written: io.StringIO, texts: list[str]) -> None:
    written.seek(0)
    written.truncate()
    entry = Entry(*texts)
    Audit(1.0).refused(entry)
    Audit(1.0).allowed(entry)
    lines = written.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 9 * 200 * 12 + 500
        told = json.loads(line)
        assert told["message"] == "call"
        assert {name: value[:200] for name, value in entry._asdict().items() if value} == {
            name: told[name] for name in Entry._fields if name in told
        }

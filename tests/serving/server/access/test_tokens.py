"""Tokens of an issuer: which are taken, and where its keys come from."""

import asyncio
import base64
import gzip
import itertools
import json
import logging
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.algorithms import RSAAlgorithm

from serving.base.errors import ModelNotReady, Unauthenticated
from serving.base.metrics import FrontMetrics
from serving.server.access import tokens as access_tokens
from serving.server.access.tokens import Spacing, Tokens
from serving.server.access_config import JwtSettings
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, issuing, rsa_key, symmetric
from tests.support.stepped_loop import SteppedLoop

METRICS = FrontMetrics()


def tokens(place: str, spacing: Spacing | None = None, *algorithms: str) -> Tokens:
    settings = JwtSettings(ISSUER, AUDIENCE, place, [*(algorithms or ("ES256", "RS256"))], "roles")
    return Tokens(settings, METRICS.access_failures, spacing)


def with_tokens(
    work: Callable[[Tokens, Issuer], Awaitable[None]], spacing: Spacing | None = None
) -> None:
    """Runs `work` with what has the keys of an issuer."""

    async def run() -> None:
        with issuing() as issuer:
            known = tokens(issuer.url, spacing)
            await known.start()
            await work(known, issuer)

    asyncio.run(run())


def test_token_names_its_subject_and_his_roles() -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        found = known.identity(issuer.token("alice", roles=["ops", "lab"]))
        assert found == ("jwt:alice", ("jwt:alice", "role:ops", "role:lab"))
        assert known.identity(issuer.token("bob", roles="ops")).names == ("jwt:bob", "role:ops")
        assert known.identity(issuer.token("eve", roles={"ops": 1})).names == ("jwt:eve",)
        assert known.identity(issuer.token("bob", aud=["other", AUDIENCE])).name == "jwt:bob"

    with_tokens(work)


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in (header, claims)]
    coded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"")]
    return ".".join(coded)


def test_no_other_token_is_taken_and_the_caller_learns_no_reason() -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        good = issuer.token()
        head, body, signature = good.split(".")
        stranger = Issuer()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": int(time.time()) + 60}
        public = jwt.PyJWK(issuer.key_set()["keys"][0]).key.public_numbers()
        wrong = [
            "", "x", ".", "..", "a.b.c", head, good[:-4], good + "x", "ä", "\udcff", good * 20,
            f"{head}.{body}.", f"{head}.{body}.{signature[::-1]}",
            stranger.token(),
            issuer.token(iss="https://other.example"), issuer.token(iss=None),
            issuer.token(aud="other"), issuer.token(aud=None), issuer.token(exp=None),
            issuer.token(sub=None), issuer.token(sub=""), issuer.token(sub="a\nb"),
            issuer.token(sub="a" * 257), issuer.token(nbf=int(time.time()) + 600),
            issuer.token(roles=["x" * 300]), issuer.token(roles=["a"] * 65),
            issuer.token(roles=[["a"]]),
            unsigned({"alg": "none", "kid": "first"}, claims),
            unsigned({"alg": "ES256", "kid": ["first"]}, claims),
            unsigned({"alg": "ES256", "kid": "first"}, claims),
            jwt.encode(claims, str(public.x) * 2, "HS256", headers={"kid": "first"}),
        ]  # fmt: skip
        for token in wrong:
            with pytest.raises(Unauthenticated) as failure:
                known.identity(token)
            assert str(failure.value) == "the bearer token is not accepted"
            assert failure.value.__context__ is None
        with pytest.raises(Unauthenticated, match="has expired"):
            known.identity(issuer.token(exp=int(time.time()) - 60))
        assert known.identity(good).name == "jwt:alice"

    with_tokens(work)


def test_remembered_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        token = issuer.token()
        known.identity(token)
        monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
        assert known.identity(token).name == "jwt:alice"
        later = time.time() + 100
        monkeypatch.setattr(time, "time", lambda: later)
        with pytest.raises(Unauthenticated, match="has expired"):
            known.identity(token)

    with_tokens(work)


def test_withdrawn_key_takes_its_tokens_with_it_and_a_new_one_is_found() -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        old = issuer.token()
        known.identity(old)
        issuer.add("second")
        issuer.published.remove("first")
        new = issuer.token(kid="second")
        with pytest.raises(Unauthenticated):
            known.identity(new)
        following = asyncio.create_task(known.follow())
        await asyncio.to_thread(issuer.wait_for_fetch, 2)
        while True:
            try:
                assert known.identity(new).name == "jwt:alice"
                break
            except Unauthenticated:
                await asyncio.sleep(0.005)  # the answer is on its way
        with pytest.raises(Unauthenticated):
            known.identity(old)
        following.cancel()

    with_tokens(work, Spacing(refresh=600, least=0.05))


def test_unknown_keys_do_not_fetch_more_often_than_is_allowed() -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        issuer.add("second")
        issuer.published.remove("second")
        token = issuer.token(kid="second")
        following = asyncio.create_task(known.follow())
        asked = 0
        while len(issuer.fetches) < 4:
            asked += 1
            with pytest.raises(Unauthenticated):
                known.identity(token)
            await asyncio.sleep(0.001)  # lets the fetches go on
        following.cancel()
        pauses = [b - a for a, b in zip(issuer.fetches, issuer.fetches[1:], strict=False)]
        assert min(pauses) > 0.09
        assert asked > 10

    with_tokens(work, Spacing(refresh=600, least=0.1))


def test_withdrawn_key_lives_no_longer_than_is_said() -> None:
    """Of an issuer whose tokens all name known keys."""
    loop, fetched = SteppedLoop(), list[float]()
    known = tokens("http://127.0.0.1:1/keys")
    known._keys = {}

    async def fetch() -> None:
        fetched.append(loop.now)

    known._fetch = fetch  # type: ignore[method-assign]
    following = loop.create_task(known.follow())
    while len(fetched) < 4:
        loop.rounds(4)
        loop.now += 1
    assert {round((b - a) / 60, 1) for a, b in itertools.pairwise(fetched)} == {5.0}
    following.cancel()
    loop.rounds(2)
    loop.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None), (302, None), (200, b"no json"), (200, b"[]"), (200, b'{"keys": []}'),
        (200, b'{"keys": [3]}'), (200, b'{"keys": [{"kty": "EC"}]}'), (200, b" " * 300_000),
        (200, gzip.compress(b" " * 50_000_000)),
    ],
)  # fmt: skip
def test_last_good_keys_stay_where_a_fetch_fails(
    status: int, body: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        before = METRICS.access_failures.labels("--jwt-jwks").value
        issuer.status, issuer.body = status, body
        await known.start()
        assert known.identity(issuer.token()).name == "jwt:alice"
        assert METRICS.access_failures.labels("--jwt-jwks").value == before + 1
        assert "the last good ones stay" in caplog.text

    with caplog.at_level(logging.ERROR):
        with_tokens(work)


def test_without_any_keys_callers_may_try_again(tmp_path: Path) -> None:
    async def run() -> None:
        file = tmp_path / "keys.json"
        known = tokens(str(file), Spacing(refresh=600, least=0.06))
        await known.start()
        with pytest.raises(ModelNotReady, match="could not be fetched yet"):
            known.identity("a.b.c")
        issuer = Issuer()
        following = asyncio.create_task(known.follow())
        file.write_text(json.dumps(issuer.key_set()))
        while True:
            try:
                assert known.identity(issuer.token()).name == "jwt:alice"
                break
            except ModelNotReady:
                await asyncio.sleep(0.005)  # the file is read meanwhile
        following.cancel()

    asyncio.run(run())


def test_published_secret_signs_nothing_and_a_key_has_one_algorithm(tmp_path: Path) -> None:
    async def run() -> None:
        private, public = rsa_key()
        secret = b"x" * 64
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"keys": [symmetric("s", secret), public | {"kid": "r"}]}))
        known = tokens(str(file), None, "RS256", "PS256", "ES256")
        await known.start()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": int(time.time()) + 60}
        by_rsa = jwt.encode(claims, private, "RS256", headers={"kid": "r"})
        assert known.identity(by_rsa).name == "jwt:eve"
        # The only key of the set that counts; a token need not name it.
        assert known.identity(jwt.encode(claims, private, "RS256")).name == "jwt:eve"
        for key, algorithm, kid in ((secret, "HS512", "s"), (private, "PS256", "r")):
            with pytest.raises(Unauthenticated):
                known.identity(jwt.encode(claims, key, algorithm, headers={"kid": kid}))

    asyncio.run(run())


def test_short_key_signs_nothing(tmp_path: Path) -> None:
    """RFC 7518, 3.3: whoever can factor it signs in as everybody."""

    async def run() -> None:
        (short, weak), (private, public) = rsa_key(1024), rsa_key()
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"keys": [weak | {"kid": "w"}, public | {"kid": "r"}]}))
        known = tokens(str(file))
        await known.start()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": int(time.time()) + 60}
        assert known.identity(jwt.encode(claims, private, "RS256", headers={"kid": "r"}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyJWT warns of such a key too
            by_weak = jwt.encode(claims, short, "RS256", headers={"kid": "w"})
            with pytest.raises(Unauthenticated):
                known.identity(by_weak)

    asyncio.run(run())


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": []}'])
def test_first_key_set_without_a_key_is_a_failure(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        file = tmp_path / "keys.json"
        file.write_bytes(content)
        before = METRICS.access_failures.labels("--jwt-jwks").value
        await tokens(str(file)).start()
        assert METRICS.access_failures.labels("--jwt-jwks").value == before + 1

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "cannot be fetched" in caplog.text


def test_private_key_that_is_published_signs_nothing_and_odd_ones_are_passed_over(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        private, public = rsa_key()
        published = RSAAlgorithm.to_jwk(private, as_dict=True) | {"kid": "p"}
        odd = [7, None, [], {}, {"kty": "RSA", "n": 5, "e": 7, "kid": "q"}]
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"keys": [*odd, published, public | {"kid": "r"}]}))
        known = tokens(str(file))
        await known.start()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": int(time.time()) + 60}
        token = jwt.encode(claims, private, "RS256", headers={"kid": "r"})
        assert known.identity(token).name == "jwt:eve"
        with pytest.raises(Unauthenticated):
            known.identity(jwt.encode(claims, private, "RS256", headers={"kid": "p"}))

    asyncio.run(run())


def test_key_set_that_others_may_write_is_not_read_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        file = tmp_path / "keys.json"
        file.write_text(json.dumps(Issuer().key_set()))
        file.chmod(0o666)
        known = tokens(str(file))
        for _ in range(5):
            await known.start()
        with pytest.raises(ModelNotReady):
            known.identity("a.b.c")

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    [line] = caplog.records
    assert "may be written by others (mode 666)" in line.__dict__["reason"]


def test_issuer_who_stalls_is_given_up_and_the_last_good_keys_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(known: Tokens, issuer: Issuer) -> None:
        monkeypatch.setattr(access_tokens, "_FETCH_SECONDS", 0.05)
        issuer.piece = 10
        await known.start()
        issuer.go_on.set()
        assert known.identity(issuer.token()).name == "jwt:alice"
        assert "TimeoutError" in caplog.records[-1].__dict__["reason"]

    with caplog.at_level(logging.ERROR):
        with_tokens(work)

"""Bearer tokens: JSON Web Tokens of one issuer, checked against its published keys (JWKS).

RFC 7519, RFC 7517, RFC 8725. The keys are fetched in the background, never while a call waits.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import jwt

from serving.base.counting.sums import Tally
from serving.base.errors import ModelNotReady, Unauthenticated
from serving.base.files import read_file
from serving.base.text import one_line
from serving.server.access.identity import Identity, is_name
from serving.server.access_config import JwtSettings

logger = logging.getLogger(__name__)

# Seconds in which a fetch must end; the start of the server waits for the first.
_FETCH_SECONDS = 5.0
# Bytes and keys of a key set.
_SET_BYTES = 256 << 10
_SET_KEYS = 100
# Seconds by which the clocks of issuer and server may differ.
_LEEWAY = 10
# Characters of a token. gRPC takes headers of 16 KiB.
_TOKEN_LENGTH = 8192
# Verified tokens that are remembered. More take memory (0.5 KiB each), fewer are verified again.
_REMEMBERED = 4096
# Roles of a token that count.
_ROLES = 64

_BAD = "the bearer token is not accepted"
_AS_IT_IS = {"Accept-Encoding": "identity"}


class Spacing(NamedTuple):
    """Seconds between two fetches of keys.

    refresh: while no token calls for one. Shorter notices a withdrawn key sooner.
    least: whatever callers send.
    """

    refresh: float
    least: float


# An unknown key id fetches twice a minute at most.
_OF_URL = Spacing(300.0, 30.0)
_OF_FILE = Spacing(0.0, 1.0)


class Tokens:
    """Tells whose tokens are.

    failures: counts fetches that failed.
    """

    def __init__(
        self, settings: JwtSettings, failures: Tally, spacing: Spacing | None = None
    ) -> None:
        self._settings = settings
        self._failures = failures
        self._fetched = settings.jwks.startswith(("http://", "https://"))
        self._spacing = spacing or (_OF_URL if self._fetched else _OF_FILE)
        # By key id; None until they were fetched once.
        self._keys: Mapping[str, jwt.PyJWK] | None = None
        self._document: bytes | None = None
        # Why the last fetch failed; empty where it did not.
        self._reason = ""
        # By the digest of a token: whose it is, and until when, in seconds since 1970.
        self._verified: dict[bytes, tuple[Identity, float]] = {}
        self._wanted = asyncio.Event()

    def identity(self, token: str) -> Identity:
        """Whose a token is. Raises Unauthenticated; ModelNotReady where no keys are known yet."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        found = self._verified.get(digest)
        if found is not None:
            if found[1] > time.time():
                return found[0]
            del self._verified[digest]
            raise Unauthenticated("the bearer token has expired")
        identity, expires = self._verify(token)
        if len(self._verified) >= _REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = identity, expires
        return identity

    def _verify(self, token: str) -> tuple[Identity, float]:
        if self._keys is None:
            raise ModelNotReady("the keys of the tokens' issuer could not be fetched yet")
        settings = self._settings
        try:
            key = self._key_of(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=settings.algorithms,
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return self._named(claims), float(claims["exp"]) + _LEEWAY
        except jwt.ExpiredSignatureError:
            reason = "the bearer token has expired"
        except Exception:  # Whatever a parser of tokens raises, the caller learns as little.
            reason = _BAD
        # Outside of the block: the token must not hang on the error by its frames.
        raise Unauthenticated(reason)

    def _key_of(self, token: str) -> jwt.PyJWK:
        """The key that a token names. Raises jwt.PyJWTError; an unknown one is fetched later."""
        if len(token) > _TOKEN_LENGTH:
            raise jwt.InvalidTokenError
        assert self._keys is not None
        name = jwt.get_unverified_header(token).get("kid", "")
        if name == "" and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(name)
        if key is None:
            self._wanted.set()
            raise jwt.InvalidTokenError
        return key

    def _named(self, claims: Mapping[str, Any]) -> Identity:
        """Raises jwt.InvalidTokenError for names that no policy and no log could hold."""
        subject, given = claims["sub"], claims.get(self._settings.roles_claim)
        roles = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        if len(roles) > _ROLES or not all(map(is_name, [subject, *roles])):
            raise jwt.InvalidTokenError
        name = f"jwt:{subject}"
        return Identity(name, (name, *(f"role:{role}" for role in roles)))

    async def start(self) -> None:
        """Fetches the keys once, for a few seconds at most."""
        await self._fetch()

    async def follow(self) -> None:
        """Fetches the keys again and again, and sooner where a token names an unknown one."""
        while True:
            known, spacing = self._keys is not None, self._spacing
            await asyncio.sleep(spacing.least if known else spacing.least / 6)
            try:
                wait = spacing.refresh - spacing.least if known else 0.0
                await asyncio.wait_for(self._wanted.wait(), wait)
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._fetch()

    async def _fetch(self) -> None:
        """Takes the issuer's keys; the last good ones stay where that fails."""
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                document = await self._read()
            if document == self._document:
                keys = self._keys
            else:
                # A hundred keys take 10 ms.
                keys = await asyncio.to_thread(_keys_of, document)
        except Exception as error:  # Of the network, of files, of parsers: each the same here.
            self._failures.count("--jwt-jwks")
            reason = one_line(f"{type(error).__name__}: {error}")
            if reason != self._reason:  # a file is read every second
                self._reason = reason
                logger.error(
                    "the keys of tokens cannot be fetched, the last good ones stay",
                    extra={"reason": reason},
                )
            return
        self._reason = ""
        if document != self._document:
            # A token of a key that was withdrawn must not live on here.
            self._keys, self._document = keys, document
            self._verified.clear()
            logger.info("keys of tokens read", extra={"keys": len(keys or ())})

    async def _read(self) -> bytes:
        place = self._settings.jwks
        if not self._fetched:
            # Who may write it signs in as everybody.
            return await asyncio.to_thread(read_file, Path(place), _SET_BYTES, closed=True)
        async with (
            # As it is sent: compressed, a few bytes could become many.
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(place, allow_redirects=False, headers=_AS_IT_IS) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            content = await answer.content.read(_SET_BYTES + 1)
            while len(content) <= _SET_BYTES and (more := await answer.content.readany()):
                content += more
            if len(content) > _SET_BYTES:
                raise ValueError(f"more than {_SET_BYTES} bytes")
            return content


def _keys_of(document: bytes) -> dict[str, jwt.PyJWK]:
    """The public keys for signatures in a key set, by their id; others, and those that are too
    short (RFC 7518: RSA of 2048 bits), are passed over. Raises ValueError where none is left."""
    listed = json.loads(document)["keys"]
    keys: dict[str, jwt.PyJWK] = {}
    for one in listed[:_SET_KEYS]:
        # A symmetric or private key that is published is no secret: everybody could sign with it.
        if not isinstance(one, dict) or "k" in one or "d" in one or one.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(one)
            if key.Algorithm.check_key_length(key.key) is None:
                keys[str(one.get("kid", ""))] = key
        except Exception:  # of numbers and text that are none, too
            continue
    if not keys:
        raise ValueError("no public key for signatures in the set")
    return keys

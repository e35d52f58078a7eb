"""Whose call it is, by what the caller proves."""

import functools
import time
from typing import NamedTuple, Protocol

from serving.base.errors import Unauthenticated
from serving.server.access.caller import API_KEY, AUTHORIZATION, Caller
from serving.server.access.followed import Followed
from serving.server.access.keys import ApiKeys

# Characters of a name.
LONGEST_NAME = 256
# Names of a certificate that count.
_SANS = 64

ANONYMOUS = "anonymous"


def is_name(value: object) -> bool:
    """Whether a token or a certificate may name a caller so: policies and logs hold the whole of
    it, in one line."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


class Identity(NamedTuple):
    """Somebody who calls.

    name: in logs, metrics and limits: socket, token, cert:URI:spiffe://..., jwt:SUBJECT,
        key:CLIENT, or "address ADDRESS" for whoever has shown nothing.
    names: all by which a policy may mean him.
    """

    name: str
    names: tuple[str, ...]


# Of as many certificates as have a connection at a time; each takes 1 us.
@functools.lru_cache(4096)
def _of_certificate(certificate: tuple[str, ...]) -> Identity | None:
    names = tuple(f"cert:{name}" for name in certificate[:_SANS] if is_name(name))
    return Identity(names[0], names) if names else None


@functools.lru_cache(4096)
def _of_client(client: str) -> Identity:
    name = f"key:{client}"
    return Identity(name, (name,))


class TakesTokens(Protocol):
    """Knows whose bearer tokens are."""

    def identity(self, token: str) -> Identity:
        """Raises Unauthenticated, and ModelNotReady while it cannot tell."""


class NoTokens:
    """Knows whose bearer tokens are where the admin alone has one."""

    def identity(self, token: str) -> Identity:
        """Raises Unauthenticated."""
        raise Unauthenticated("the bearer token is not accepted")


class Admins(Protocol):
    """Knows the callers of the admin socket, and of the admin token."""

    def identity(self, caller: Caller) -> str | None:
        """Their name; None for others."""


class Identities:
    """Tells who calls: an admin, else by the client certificate, a bearer token, or an API key. The
    first of these that a caller shows is judged alone."""

    def __init__(
        self,
        admins: Admins,
        tokens: TakesTokens | None,
        keys: Followed[ApiKeys] | None,
        *,
        certificates: bool,
    ) -> None:
        """certificates: callers can show one."""
        self._admins = admins
        self._tokens = tokens
        self._keys = keys
        ways = []
        if tokens is not None:
            ways.append(f"'{AUTHORIZATION}: Bearer TOKEN'")
        if keys is not None:
            ways.append(f"'{API_KEY}: KEY'")
        if certificates:
            ways.append("a client certificate")
        self.missing = (
            f"the call does not say who makes it: expected {' or '.join(ways)}"
            if ways
            else "the policy lets in nobody who shows nothing, and the server takes no credentials "
            "(--api-keys, --jwt-issuer, --tls-client-ca)"
        )

    def identity(self, caller: Caller) -> Identity | None:
        """Whose call it is; None for a caller who shows nothing. Raises Unauthenticated for
        credentials that prove nobody, ModelNotReady while that cannot be told."""
        admin = self._admins.identity(caller)
        if admin is not None:
            return Identity(admin, (admin,))
        if caller.certificate is not None:
            proved = _of_certificate(caller.certificate)
            if proved is None:
                raise Unauthenticated("the client certificate has no name that is taken")
            return proved
        given = caller.api_key
        if caller.authorization:
            scheme, _, credentials = caller.authorization.partition(" ")
            scheme = scheme.lower()
            if self._tokens is not None and scheme == "bearer":
                return self._tokens.identity(credentials.strip())
            # Prometheus' own way to show a key: it sends `authorization` alone.
            if scheme == "apikey" and not given:
                given = credentials
        if self._keys is not None and given:
            key = self._keys.content.key_of(given.strip(), time.time())
            if key is None:
                raise Unauthenticated("the API key is not accepted")
            return _of_client(key.client)
        return None

"""API keys: a file of clients, the SHA-256 of their keys, and their expiry.

A line is `CLIENT SHA256 EXPIRES`; EXPIRES is `never` or a time such as 2027-01-31T12:00:00Z. Blank
lines and those that begin with # say nothing. A key is 256 random bits, so that its plain digest
tells nothing of it.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from serving.base.errors import quoted
from serving.server.access.followed import BadFile

# A client: what names it in policies, logs and metrics.
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = "convserve_"
_SECRET_BYTES = 32
# Keys of a client that are good at a time: the one in use, and the one that replaces it.
KEYS_A_CLIENT = 2
# Bytes of a digest by which a key is found; the whole is then compared in constant time.
_FOUND_BY = 8
# Characters of a digest that name a key to people.
_SHOWN = 12
# A key of nobody: what is compared where none is found.
_NO_DIGEST = bytes(32)


class ApiKey(NamedTuple):
    """A key in the file.

    client: whose it is.
    digest: SHA-256 of the key, in hexadecimal digits.
    expires: seconds since 1970; inf for never.
    """

    client: str
    digest: str
    expires: float = math.inf

    @property
    def id(self) -> str:
        """Names the key to people; it is the beginning of its digest."""
        return self.digest[:_SHOWN]

    def line(self) -> str:
        """As the file has it."""
        return f"{self.client} {self.digest} {time_text(self.expires)}"


class ApiKeys:
    """The keys of a file, as calls look for them."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        digests = ((bytes.fromhex(key.digest), key) for key in keys)
        self._found = {digest[:_FOUND_BY]: (digest, key) for digest, key in digests}

    def key_of(self, given: str, now: float) -> ApiKey | None:
        """The key that a caller has given, unless it is unknown or has expired."""
        digest = hashlib.sha256(given.encode(errors="replace")).digest()
        known, key = self._found.get(digest[:_FOUND_BY], (_NO_DIGEST, None))
        if not hmac.compare_digest(known, digest) or key is None or key.expires <= now:
            return None
        return key


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(key: str) -> str:
    """As the file has it."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(text: str) -> list[ApiKey]:
    """The keys of a file. Raises BadFile naming the line."""
    keys: list[ApiKey] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = _parsed(line, number)
        first = seen.setdefault(key.digest, number)
        if first != number:
            raise BadFile(f"line {number}: the key of line {first} once more")
        keys.append(key)
    now = datetime.now(UTC).timestamp()
    count = Counter(key.client for key in keys if key.expires > now)
    for client, number in count.items():
        if number > KEYS_A_CLIENT:
            raise BadFile(
                f"client {client!r}: expected at most {KEYS_A_CLIENT} keys that have not expired, "
                f"got {number}"
            )
    return keys


def _parsed(line: str, number: int) -> ApiKey:
    parts = line.split()
    if len(parts) != 3:
        raise BadFile(f"line {number}: expected CLIENT SHA256 EXPIRES, got {len(parts)} words")
    client, digest, expires = parts
    check_client(client, f"line {number}: ")
    if not _DIGEST.fullmatch(digest):
        # Not repeated: it may be the key itself.
        raise BadFile(f"line {number}: expected a SHA-256 as 64 hexadecimal digits in lower case")
    return ApiKey(client, digest, parse_time(expires, f"line {number}: "))


def check_client(client: str, where: str = "") -> None:
    """Raises BadFile for what can name no client."""
    if not _CLIENT.fullmatch(client):
        raise BadFile(
            f"{where}client: expected 1 to 64 letters, digits, '.', '_', '@' and '-', "
            f"got {quoted(client)}"
        )


def parse_time(text: str, where: str = "") -> float:
    """Seconds since 1970 of a time with a zone, or of the begin of a day in UTC; inf for `never`.
    Raises BadFile."""
    if text == "never":
        return math.inf
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        found = found.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # a moment after the year 9999 in UTC, too
        raise BadFile(
            f"{where}expected never, a day (2027-01-31) or a time (2027-01-31T12:00:00Z), "
            f"got {quoted(text)}"
        ) from error
    return found.timestamp()


def time_text(seconds: float) -> str:
    """A time as the file has it."""
    if math.isinf(seconds):
        return "never"
    found = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return found.isoformat(timespec="seconds") + "Z"


def with_key(text: str, key: ApiKey, now: float) -> str:
    """The text of a file with one key more; keys of its client that have expired leave it. Raises
    BadFile where the client has two that are good."""
    good = [k for k in parse_keys(text) if k.client == key.client and k.expires > now]
    if len(good) >= KEYS_A_CLIENT:
        ids = ", ".join(k.id for k in good)
        raise BadFile(f"client {key.client!r} has {len(good)} keys already; revoke one of {ids}")
    gone = {k.digest for k in parse_keys(text) if k.client == key.client and k.expires <= now}
    return _without(text, gone) + key.line() + "\n"


def without_keys(text: str, name: str) -> tuple[str, list[ApiKey]]:
    """The text of a file without the keys of a client, or without the key of an id; and these
    keys. Raises BadFile where there is none."""
    keys = parse_keys(text)
    gone = [key for key in keys if name in (key.client, key.id)]
    if not gone:
        known = sorted({key.client for key in keys})
        raise BadFile(f"no client and no key {quoted(name)}; there are the clients {known}")
    return _without(text, {key.digest for key in gone}), gone


def _without(text: str, digests: set[str]) -> str:
    lines = [line for line in text.splitlines() if not digests & set(line.split()[1:2])]
    return "".join(f"{line}\n" for line in lines)

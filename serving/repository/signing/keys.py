"""Ed25519 keys: private ones, which sign, and public ones, which are trusted."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from serving.base.errors import quoted
from serving.base.files import read_file

# The variable that holds the passphrase of an encrypted private key. An argument would show it to
# every user of the machine.
PASSPHRASE_VARIABLE = "CONVSERVE_SIGN_PASSPHRASE"
# Keys that are trusted at a time. A team has a few; each is one signature to check at most.
MAX_KEYS = 100
_KEY_BYTES = 64 << 10
_BEGIN = "-----BEGIN "
# Hexadecimal digits of a key's id.
_ID_LENGTH = 16
# A private key: nobody else may read it, and no group may write it.
_FOREIGN = stat.S_IRWXO | stat.S_IWGRP

# Trusted keys, by id.
Keys = Mapping[str, Ed25519PublicKey]


class BadKey(Exception):
    """A key that cannot be used; the text says why."""


def key_id(key: Ed25519PublicKey) -> str:
    """Names a key: the first 16 hexadecimal digits of the SHA-256 of its DER form."""
    form = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(form).hexdigest()[:_ID_LENGTH]


def parse_public_keys(text: str) -> Keys:
    """The keys of PEM files; text between them is passed over. Raises BadKey."""
    keys: dict[str, Ed25519PublicKey] = {}
    for part in text.split(_BEGIN)[1:]:
        kind = part.partition("-----")[0]
        if kind != "PUBLIC KEY":
            raise BadKey(f"expected Ed25519 public keys in PEM form, got a {quoted(kind)}")
        try:
            key = load_pem_public_key((_BEGIN + part).encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadKey(f"key {len(keys) + 1}: is no public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            found = type(key).__name__.strip("_").removesuffix("PublicKey")
            raise BadKey(f"key {len(keys) + 1}: expected an Ed25519 key, got one of {found}")
        keys[key_id(key)] = key
        if len(keys) > MAX_KEYS:
            raise BadKey(f"expected at most {MAX_KEYS} keys")
    return keys


def pem_of(keys: Keys) -> str:
    """Keys in PEM form, as `parse_public_keys` takes them."""
    form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return "".join(key.public_bytes(*form).decode() for key in keys.values())


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file that nobody else may read; the passphrase of an encrypted one comes
    from the environment. Raises BadKey."""
    try:
        content = read_file(path, _KEY_BYTES)
        mode = path.stat().st_mode
    except OSError as error:
        raise BadKey(f"{path}: cannot be read: {error.strerror}") from error
    if mode & _FOREIGN:
        raise BadKey(f"{path}: may be read or written by others (mode {stat.S_IMODE(mode):o})")
    passphrase = None
    if b"ENCRYPTED" in content:
        passphrase = os.environ.get(PASSPHRASE_VARIABLE, "").encode(errors="replace")
        if not passphrase:
            raise BadKey(f"{path}: is encrypted, and {PASSPHRASE_VARIABLE} holds no passphrase")
    try:
        key = load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        wrong = f"{PASSPHRASE_VARIABLE} does not open it" if passphrase else "is none in PEM form"
        raise BadKey(f"{path}: expected a private key: {wrong}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path}: expected an Ed25519 key (openssl genpkey -algorithm ed25519)")
    return key

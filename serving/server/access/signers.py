"""The keys of --require-signature: a file or a folder of Ed25519 public keys."""

from collections.abc import Sequence
from pathlib import Path

from serving.base.counting.sums import Tally
from serving.repository.signing.keys import MAX_KEYS, BadKey, Keys, parse_public_keys
from serving.server.access.followed import BadFile, Followed, read_checked


def read_signers(path: Path) -> Keys:
    """The keys in a file or a folder. Raises BadFile."""
    return read_checked(path, _parsed, _together)


def followed_signers(path: Path, failures: Tally) -> Followed[Keys]:
    """The keys of --require-signature, followed. Raises StartError."""
    return Followed("--require-signature", path, _parsed, failures, _together)


def _parsed(text: str) -> Keys:
    """A file without a key is taken for one that is being written: it withdraws no key."""
    try:
        keys = parse_public_keys(text)
    except BadKey as error:
        raise BadFile(str(error)) from error
    if not keys:
        raise BadFile("expected at least one Ed25519 public key in PEM form")
    return keys


def _together(files: Sequence[Keys]) -> Keys:
    """An empty folder trusts nobody."""
    keys = {name: key for found in files for name, key in found.items()}
    if len(keys) > MAX_KEYS:
        raise BadFile(f"expected at most {MAX_KEYS} keys")
    return keys

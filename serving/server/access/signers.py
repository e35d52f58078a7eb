"""The keys of --require-signature: a file or a folder of Ed25519 public keys."""

from pathlib import Path

from serving.base.counting.sums import Tally
from serving.repository.signing.keys import BadKey, Keys, parse_public_keys
from serving.server.access.followed import BadFile, Followed, read_checked


def read_signers(path: Path) -> Keys:
    """The keys in a file or a folder. Raises BadFile."""
    return read_checked(path, lambda text: _parsed(path, text), folder=True)


def followed_signers(path: Path, failures: Tally) -> Followed[Keys]:
    """The keys of --require-signature, followed. Raises StartError."""
    return Followed(
        "--require-signature", path, lambda text: _parsed(path, text), failures, folder=True
    )


def _parsed(path: Path, text: str) -> Keys:
    """An empty folder trusts nobody; an empty file is taken for one that is being written."""
    try:
        keys = parse_public_keys(text)
    except BadKey as error:
        raise BadFile(str(error)) from error
    if not keys and not path.is_dir():
        raise BadFile("expected at least one Ed25519 public key in PEM form")
    return keys

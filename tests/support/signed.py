"""Keys that sign models, and the files that hold them."""

import itertools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from serving.repository.signing.keys import key_id

# The keys of this process. They are the same in every run, and while tests are collected in every
# worker, since names of tests may hold them.
_NUMBERS = itertools.count()


class Signer:
    """A new key.

    id: names it.
    trusted: it alone, as a server has it.
    pem: its public half.
    """

    def __init__(self) -> None:
        seed = next(_NUMBERS).to_bytes(32, "big")
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self.private.public_key()
        self.id = key_id(public)
        self.trusted = {self.id: public}
        self.pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def write(self, folder: Path, name: str, passphrase: str = "") -> tuple[Path, Path]:
        """Writes NAME.pem and NAME.pub."""
        how: KeySerializationEncryption = NoEncryption()
        if passphrase:
            how = BestAvailableEncryption(passphrase.encode())
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.touch(0o600)
        private.write_bytes(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
        public.write_text(self.pem)
        return private, public

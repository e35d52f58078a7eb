"""`convserve sign` and `convserve verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from protos.gen import model_config_pb2 as pb
from serving.base.command import AsJson, application
from serving.base.errors import ModelLoadError
from serving.base.machine.terminal import next_step
from serving.cli.output import fail, print_json, say, warn
from serving.repository.model_config import CONFIG_FILE, from_proto, read_proto
from serving.repository.signing.keys import PASSPHRASE_VARIABLE, BadKey, Keys, read_private_key
from serving.repository.signing.private_copy import SignedVersions
from serving.repository.signing.statement import SIGNATURE_FILE, named, sign_version
from serving.server.access.followed import BadFile
from serving.server.access.signers import read_signers
from serving.server.config import ServerConfig

_Folders = Annotated[
    list[Path], typer.Argument(metavar="VERSION_FOLDER...", help="NAME/<number> in a repository.")
]

# Of other commands that load models.
RequireSignature = Annotated[
    Path | None, typer.Option(help=ServerConfig.model_fields["require_signature"].description)
]


def sign(
    folders: _Folders,
    key: Annotated[
        Path,
        typer.Option(
            help="PEM file of an Ed25519 private key; the passphrase of an encrypted one comes "
            f"from {PASSPHRASE_VARIABLE}."
        ),
    ],
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File or folder of public keys: sign only what one of them has signed as it lies.",
            show_default="none",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign versions of models as they lie there, for servers with --require-signature.

    Signatures of other keys stay beside this one where they say the same.
    """
    signers = None if keys is None else _read(keys, "--keys")
    try:
        private = read_private_key(key)
    except BadKey as error:
        fail(f"--key: {error}")
    signed = []
    for folder in folders:
        try:
            signer = sign_version(folder, private, signers)
        except ModelLoadError as error:
            fail(error.detail)
        except OSError as error:
            fail(f"{folder / SIGNATURE_FILE}: cannot be written: {error.strerror}")
        signed.append({"folder": str(folder), "key": signer})
        if not as_json:
            say(f"{folder}: signed by key {signer}")
    if as_json:
        print_json(signed)
    else:
        next_step("verify", *folders, "--keys", "PUBLIC_KEYS")


def verify(
    folders: _Folders,
    keys: Annotated[
        Path,
        typer.Option(help="File or folder of public keys: the server's --require-signature."),
    ],
    as_json: AsJson = False,
) -> None:
    """Say who has signed versions of models, and whether a server with these keys would take
    them."""
    signed = signed_by(keys, None, "--keys")
    found: list[dict[str, Any]] = []
    for folder in folders:
        place = named(folder)
        line = {"folder": str(folder), "keys": [], "passed_over": [], "reason": ""}
        try:
            path = place.parent / CONFIG_FILE
            config = from_proto(read_proto(path) or pb.ModelConfig(), path)
            with signed.opened(place.parent, place.name, config) as copy:
                line["keys"] = list(copy.signers)
                if not as_json:
                    say(f"{folder}: signed by key {', '.join(copy.signers)}")
            line["passed_over"] = list(copy.passed_over)
            if copy.passed_over:
                warn(f"{folder}: not signed, and passed over: {', '.join(copy.passed_over)}")
        except ModelLoadError as error:
            line["reason"] = error.detail
            warn(error.detail)
        found.append(line)
    if as_json:
        print_json(found)
    if any(line["reason"] for line in found):
        raise typer.Exit(1)
    if not as_json:
        next_step("serve", "--model-repository", "FOLDER", "--require-signature", keys)


def refuse_signatures_of(url: str | None, keys: Path | None) -> None:
    """Ends the command with a usage error where it is to ask for signatures of a server's models:
    nothing would look at them."""
    if url is not None and keys is not None:
        raise typer.BadParameter(
            "--require-signature: is for --model-repository; a server has its own"
        )


def signed_by(
    path: Path, cache_dir: Path | None = None, flag: str = "--require-signature"
) -> SignedVersions:
    """Opens versions that one of the keys in a file or a folder has signed. Ends the command where
    the keys cannot be used."""
    keys = _read(path, flag)
    return SignedVersions(lambda: keys, cache_dir)


def _read(path: Path, flag: str) -> Keys:
    """Ends the command where the keys cannot be used."""
    try:
        return read_signers(path)
    except BadFile as error:
        fail(f"{flag}: {error}")


app = application(sign, verify)

"""Makes and checks the provenance of a release: a signed statement on what was built, of what.

`make` writes an in-toto statement with SLSA's predicate (slsa.dev/provenance/v1): its subjects are
the files and images of a release; it names the commit, and the digests of every lock and of the
base image. The envelope is signed as models are. `verify` checks who has signed it, that the files
at hand are the ones, and that the locks of this checkout are.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from serving.base.files import read_file
from serving.repository.signing.envelope import ENVELOPE_BYTES, BadEnvelope, seal, unseal
from serving.repository.signing.keys import BadKey, key_id, read_private_key
from serving.server.access.followed import BadFile
from serving.server.access.signers import read_signers

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:convserve:release:v1"
# An image by its digest, as registries and `docker inspect` write it.
_IMAGE = re.compile(r"(?P<name>[^@\s]+)@sha256:(?P<digest>[0-9a-f]{64})")


class Wrong(Exception):
    """The release is not as it should be; the text says where."""


def main(arguments: Sequence[str] | None = None, root: Path = Path()) -> None:
    """Runs the command in the checkout `root`. Exit status 1 where something is wrong."""
    given = _parser().parse_args(arguments)
    try:
        lines = _make(given, root) if given.command == "make" else _verify(given, root)
    except (Wrong, BadKey, BadFile, BadEnvelope) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    print("\n".join(lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write and sign a statement")
    make.add_argument("file", type=Path, help="where it is written")
    make.add_argument("--key", type=Path, required=True, help="private key, as of convserve sign")
    make.add_argument("--base-image", metavar="NAME@sha256:...", help="what the images build on")
    verify = commands.add_parser("verify", help="check a statement")
    verify.add_argument("file", type=Path, help="the statement")
    verify.add_argument("--keys", type=Path, required=True, help="file or folder of public keys")
    for command in (make, verify):
        command.add_argument(
            "--subject",
            type=Path,
            nargs="+",
            default=[],
            metavar="FILE",
            help="files of the release: the wheel, the chart, bills of materials",
        )
        command.add_argument(
            "--image",
            nargs="+",
            default=[],
            metavar="NAME@sha256:...",
            help="images of the release, by their digests",
        )
    return parser


def _make(given: argparse.Namespace, root: Path) -> list[str]:
    if changed := _git(root, "status", "--porcelain", "--untracked-files=no"):
        raise Wrong(f"{len(changed.splitlines())} files differ from the commit; commit them first")
    if not (given.subject or given.image):
        raise Wrong("--subject, --image: one at least is what the statement is on")
    inputs = _inputs(root)
    if given.base_image:
        inputs.append(_image(given.base_image))
    key = read_private_key(given.key)
    statement = {
        "_type": STATEMENT,
        "subject": [*map(_file, given.subject), *map(_image, given.image)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commit": _git(root, "rev-parse", "HEAD")},
                "resolvedDependencies": inputs,
            },
            "runDetails": {"builder": {"id": f"urn:convserve:key:{key_id(key.public_key())}"}},
        },
    }
    given.file.write_bytes(seal(json.dumps(statement).encode(), key))
    return [f"{given.file}: signed by key {key_id(key.public_key())}"]


def _verify(given: argparse.Namespace, root: Path) -> list[str]:
    content = read_file(given.file, ENVELOPE_BYTES)
    payload, signers = unseal(content, read_signers(given.keys))
    try:
        stated, told, commit = _read(json.loads(payload))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Wrong(f"{given.file}: is no statement on a release: {error!r}") from error
    for found in (*map(_file, given.subject), *map(_image, given.image)):
        _compare(found, stated)
    for found in _inputs(root):
        _compare(found, told)
    return [
        f"{given.file}: signed by key {', '.join(signers)}",
        f"commit {commit}",
        *(f"{name} {digest['sha256']}" for name, found in stated.items() for digest in found),
    ]


# By name; images of one name may have several.
Digests = dict[str, list[dict[str, str]]]


def _read(statement: dict[str, Any]) -> tuple[Digests, Digests, str]:
    """The digests of the subjects and of what they were built of, by name, and the commit. Raises
    the errors of a document of another form."""
    kinds = statement["_type"], statement["predicateType"]
    if kinds != (STATEMENT, PREDICATE):
        raise ValueError(f"it is of the kind {kinds}")
    definition = statement["predicate"]["buildDefinition"]
    stated: Digests = {}
    told: Digests = {}
    for found, listed in (
        (stated, statement["subject"]),
        (told, definition["resolvedDependencies"]),
    ):
        for one in listed:
            found.setdefault(one["name"], []).append(dict(one["digest"]))
    return stated, told, str(definition["externalParameters"]["commit"])


def _compare(found: dict[str, Any], stated: Digests) -> None:
    name = found["name"]
    if name not in stated:
        raise Wrong(f"{name}: the statement does not name it")
    if found["digest"] not in stated[name]:
        said = " or ".join(map(str, stated[name]))
        raise Wrong(f"{name}: is {found['digest']}, the statement says {said}")


def _inputs(root: Path) -> list[dict[str, Any]]:
    """The commit and the locks from which everything is built."""
    commit = {"name": "source", "digest": {"gitCommit": _git(root, "rev-parse", "HEAD")}}
    locks = sorted(root.glob("requirements*.lock"))
    return [commit, *map(_file, [root / "pyproject.toml", *locks])]


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": path.name, "digest": {"sha256": digest}}


def _image(reference: str) -> dict[str, Any]:
    found = _IMAGE.fullmatch(reference)
    if found is None:
        raise Wrong(f"{reference}: expected an image by its digest, NAME@sha256:<64 digits>")
    return {"name": found["name"], "digest": {"sha256": found["digest"]}}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise Wrong(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _fail(message: str) -> NoReturn:
    print(f"provenance: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()

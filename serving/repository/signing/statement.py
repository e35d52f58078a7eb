"""signature.json: a statement on a version of a model, which a key has signed.

The statement is one of in-toto (in-toto.io/Statement/v1). Its subjects are the files that a server
may read: all in the version's folder, and the files of class names beside it. Its predicate binds
them to a name, a number, and the fields of config.pbtxt that decide how the network is called. The
other fields only tune; they are the operator's, and are not signed.
"""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protos.gen import model_config_pb2 as pb
from serving.base.errors import ModelLoadError, NotTrusted, quoted
from serving.base.files import find_file, is_plain_name, read_file, sha256
from serving.base.text import first_problem
from serving.repository.labels import label_files
from serving.repository.layout import can_be_folder, is_folder, is_version
from serving.repository.manifest import read_manifest
from serving.repository.model_config import CONFIG_FILE, read_proto
from serving.repository.model_file import find_in_version
from serving.repository.signing.envelope import ENVELOPE_BYTES, BadEnvelope, seal, unseal
from serving.repository.signing.keys import Keys, key_id

SIGNATURE_FILE = "signature.json"
# Files of a version. A variant may keep its weights in up to 1,024.
_MAX_FILES = 4096
# The fields of config.pbtxt that are the operator's. Whatever is not named here is signed.
_TUNING = (
    "name", "version_policy", "max_batch_size", "instance_group", "dynamic_batching",
    "optimization", "model_warmup", "parameters", "response_cache",
)  # fmt: skip


class SignedFile(NamedTuple):
    """A file as it was signed: its bytes, and the hexadecimal digits of their SHA-256."""

    size: int
    sha256: str


class Statement(NamedTuple):
    """What a signature says.

    model, version: of which it says it.
    config: the signed fields of config.pbtxt, by name.
    files: the files of the version's folder, by name.
    labels: the files of class names beside it, by name.
    """

    model: str
    version: int
    config: Mapping[str, Any]
    files: Mapping[str, SignedFile]
    labels: Mapping[str, SignedFile]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Digest(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Annotations(_Strict):
    bytes: Annotated[int, Field(ge=0)]


class _Subject(_Strict):
    name: str
    digest: _Digest
    annotations: _Annotations


class _Predicate(_Strict):
    model: str
    version: Annotated[int, Field(ge=1)]
    config: dict[str, Any]


class _InToto(_Strict):
    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=_MAX_FILES)]
    predicate_type: Literal["urn:convserve:signed-model:v1"] = Field(alias="predicateType")
    predicate: _Predicate


def sign_version(folder: Path, key: Ed25519PrivateKey, signers: Keys | None = None) -> str:
    """Signs the version in NAME/<version> as it lies there; the key's id. Signatures of other keys
    stay where they say the same.

    signers: one of them must have signed it as it lies; None asks for none.
    Raises ModelLoadError where it cannot be read or is too large, NotTrusted where no signer has
    signed it so, OSError where nothing can be written.
    """
    folder = named(folder)
    statement = _statement(folder)
    if signers is not None:
        said, by = read_signature(folder, signers)
        if said != statement:
            raise NotTrusted(f"{folder}: is not as key {by[0]} signed it; nothing was signed")
    payload = _payload(statement)
    try:
        former = read_file(folder / SIGNATURE_FILE, ENVELOPE_BYTES)
    except OSError:
        former = b""
    content = seal(payload, key, former)
    if len(content) > ENVELOPE_BYTES:
        raise ModelLoadError(f"{folder}: a signature of over {ENVELOPE_BYTES:,} bytes is not read")
    if content == former:  # a server would see a change
        return key_id(key.public_key())
    written = folder / f".{SIGNATURE_FILE}.{os.getpid()}"
    written.unlink(missing_ok=True)
    try:
        with written.open("xb") as stream:  # no link of whoever else may write here is followed
            stream.write(content)
        written.replace(folder / SIGNATURE_FILE)
    finally:
        written.unlink(missing_ok=True)
    return key_id(key.public_key())


def named(folder: Path) -> Path:
    """The folder of a version as NAME/<number>. A link counts by its own name, as in a
    repository."""
    return Path(os.path.abspath(folder))  # noqa: PTH100 - which resolves no link


def read_signature(folder: Path, keys: Keys) -> tuple[Statement, tuple[str, ...]]:
    """The statement on the version in NAME/<version>, and the ids of the trusted keys that have
    signed it, one at least. Its files are not looked at. Raises NotTrusted, also where it is a
    statement on another model or version."""
    path = folder / SIGNATURE_FILE
    try:
        content = read_file(find_in_version(folder, SIGNATURE_FILE), ENVELOPE_BYTES)
    except FileNotFoundError as error:
        raise NotTrusted(f"{folder}: no {SIGNATURE_FILE}: nobody has signed it") from error
    except OSError as error:
        raise NotTrusted(f"{path}: cannot be read: {error.strerror}") from error
    try:
        payload, signers = unseal(content, keys)
        statement = _parsed(payload)
    except BadEnvelope as error:
        raise NotTrusted(f"{path}: {error}") from error
    said, found = (statement.model, str(statement.version)), (folder.parent.name, folder.name)
    if said != found:
        raise NotTrusted(
            f"{folder}: key {signers[0]} signed it as version {said[1]} of {quoted(said[0])}; "
            "where it was renamed, sign it anew"
        )
    return statement, signers


def check_config(folder: Path, statement: Statement, config: Mapping[str, Any], by: str) -> None:
    """Raises NotTrusted where signed fields of config.pbtxt are others now. by: who signed."""
    names = sorted(statement.config.keys() | config.keys())
    changed = [name for name in names if statement.config.get(name) != config.get(name)]
    if changed:
        raise NotTrusted(
            f"{folder}: {', '.join(changed)} in {CONFIG_FILE} is not as key {by} signed it"
        )


def signed_fields(proto: pb.ModelConfig, completed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a config that are signed, by name. completed: fields that it leaves out."""
    signed = pb.ModelConfig()
    signed.CopyFrom(proto)
    for name in (*_TUNING, *completed):
        signed.ClearField(name)
    return json_format.MessageToDict(signed, preserving_proto_field_name=True)


def version_files(folder: Path) -> Iterator[str]:
    """The names of the files in a version's folder that can be signed. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MAX_FILES + 1):
            hidden_own = entry.name.startswith(f".{SIGNATURE_FILE}")
            if not (entry.name == SIGNATURE_FILE or hidden_own or is_folder(Path(entry.path))):
                yield entry.name


def _statement(folder: Path) -> Statement:
    """The statement on a version as it lies there. Raises ModelLoadError."""
    model = folder.parent
    if not (is_version(folder.name) and can_be_folder(model.name)):
        raise ModelLoadError(f"{folder}: expected the folder of a version, NAME/<number>")
    proto = read_proto(model / CONFIG_FILE) or pb.ModelConfig()
    given = {one.name: one.label_filename for one in proto.output if one.label_filename}
    try:
        names = sorted(version_files(folder))
        beside = set(label_files(given, read_manifest(folder)).values())
        if not names or len(names) + len(beside) > _MAX_FILES:
            raise ModelLoadError(
                f"{folder}: expected 1 to {_MAX_FILES:,} files, those of class names too"
            )
        files = {name: _looked_at(find_in_version(folder, name)) for name in names}
        labels = {name: _looked_at(find_file(model, name)) for name in sorted(beside)}
    except OSError as error:
        where = error.filename or folder
        raise ModelLoadError(f"{where}: cannot be signed: {error.strerror}") from error
    return Statement(model.name, int(folder.name), signed_fields(proto), files, labels)


def _looked_at(file: Path) -> SignedFile:
    return SignedFile(file.stat().st_size, sha256(file))


def _payload(statement: Statement) -> bytes:
    model, version = statement.model, statement.version
    placed = {f"{model}/{version}/{name}": file for name, file in statement.files.items()}
    placed |= {f"{model}/{name}": file for name, file in statement.labels.items()}
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": name,
                "digest": {"sha256": file.sha256},
                "annotations": {"bytes": file.size},
            }
            for name, file in placed.items()
        ],
        "predicateType": "urn:convserve:signed-model:v1",
        "predicate": {"model": model, "version": version, "config": statement.config},
    }
    return json.dumps(document).encode()


def _parsed(payload: bytes) -> Statement:
    """Raises BadEnvelope."""
    try:
        document = _InToto.model_validate_json(payload)
    except ValidationError as error:
        where, wrong = first_problem(error)
        raise BadEnvelope(f"the statement: {where or 'document'}: {wrong}") from error
    model, version = document.predicate.model, document.predicate.version
    files: dict[str, SignedFile] = {}
    labels: dict[str, SignedFile] = {}
    for subject in document.subject:
        file = SignedFile(subject.annotations.bytes, subject.digest.sha256)
        place, _, name = subject.name.rpartition("/")
        group = {f"{model}/{version}": files, model: labels}.get(place)
        if group is None or not is_plain_name(name) or name in group:
            raise BadEnvelope(f"the statement: subject: unexpected name {quoted(subject.name)}")
        group[name] = file
    return Statement(model, version, document.predicate.config, files, labels)

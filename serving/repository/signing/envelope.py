"""Envelopes of signed text, as DSSE has them (github.com/secure-systems-lab/dsse, version 1.0).

A signature covers the type of the payload, and its very bytes: nothing is parsed before one fits.
"""

import base64
import binascii
import json
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.base.text import first_problem
from serving.repository.signing.keys import Keys, key_id

# The payload is an in-toto statement.
PAYLOAD_TYPE = "application/vnd.in-toto+json"
# Bytes of an envelope: a statement on 1,000 files and a config takes some 300 KiB.
ENVELOPE_BYTES = 4 << 20
# Signatures of an envelope; those of two keys meet while one takes the place of the other.
_MAX_SIGNATURES = 16


class BadEnvelope(Exception):
    """An envelope that cannot be opened: it is none, or no trusted key signed it."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Signature(_Strict):
    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sig: Annotated[str, Field(max_length=128)]


class _Envelope(_Strict):
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    payload: str
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=_MAX_SIGNATURES)]


def seal(payload: bytes, key: Ed25519PrivateKey, former: bytes = b"") -> bytes:
    """An envelope of a payload, signed by a key. Signatures of other keys stay from the `former`
    envelope, where its payload is the same."""
    signature = {"keyid": key_id(key.public_key()), "sig": _text(key.sign(_signed(payload)))}
    kept: list[dict[str, str]] = []
    if former:
        try:
            envelope = _parsed(former)
        except BadEnvelope:
            envelope = None
        if envelope is not None and envelope.payload == _text(payload):
            kept = [one.model_dump() for one in envelope.signatures]
            kept = [one for one in kept if one["keyid"] != signature["keyid"]]
    sealed = {
        "payloadType": PAYLOAD_TYPE,
        "payload": _text(payload),
        "signatures": [*kept[-(_MAX_SIGNATURES - 1) :], signature],
    }
    return json.dumps(sealed, indent=1).encode() + b"\n"


def unseal(content: bytes, keys: Keys) -> tuple[bytes, tuple[str, ...]]:
    """The payload of an envelope, and the ids of the trusted keys that have signed it, one at
    least. Raises BadEnvelope."""
    envelope = _parsed(content)
    payload = _bytes("payload", envelope.payload)
    signers, wrong = [], []
    for one in envelope.signatures:
        key = keys.get(one.keyid)
        if key is None:
            continue
        try:
            key.verify(_bytes("signatures.sig", one.sig), _signed(payload))
            signers.append(one.keyid)
        except (InvalidSignature, BadEnvelope):  # somebody else's beside it may fit
            wrong.append(one.keyid)
    if signers:
        return payload, tuple(dict.fromkeys(signers))
    if wrong:
        raise BadEnvelope(f"the signature of key {', '.join(wrong)} does not fit its content")
    named = ", ".join(one.keyid for one in envelope.signatures)
    trusted = ", ".join(sorted(keys)[:_MAX_SIGNATURES]) or "none"
    raise BadEnvelope(f"signed by key {named}, which is not trusted; trusted: {trusted}")


def _parsed(content: bytes) -> _Envelope:
    try:
        return _Envelope.model_validate_json(content)
    except ValidationError as error:
        where, wrong = first_problem(error)
        raise BadEnvelope(f"{where or 'document'}: {wrong}") from error


def _signed(payload: bytes) -> bytes:
    """The bytes that are signed (DSSE's PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(where: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadEnvelope(f"{where}: is no base64") from error

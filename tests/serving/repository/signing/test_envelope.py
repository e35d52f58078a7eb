"""Envelopes: who has signed them, and what is refused before anything is parsed."""

import base64
import json
from typing import Any

import pytest

from serving.repository.signing.envelope import BadEnvelope, seal, unseal
from tests.support.signed import Signer

ONE, TWO = Signer(), Signer()
BOTH = ONE.trusted | TWO.trusted
PAYLOAD = b'{"a": 1}'


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(seal(PAYLOAD, ONE.private)) | fields).encode()


def test_signature_is_over_type_and_content_as_dsse_has_it() -> None:
    """github.com/secure-systems-lab/dsse, protocol.md: PAE."""
    sealed = json.loads(seal(PAYLOAD, ONE.private))
    kind = sealed["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(PAYLOAD)} ".encode() + PAYLOAD
    signature = base64.b64decode(sealed["signatures"][0]["sig"])
    ONE.private.public_key().verify(signature, signed)
    assert unseal(seal(PAYLOAD, ONE.private), ONE.trusted) == (PAYLOAD, (ONE.id,))


def test_signatures_of_two_keys_stand_side_by_side_while_they_say_the_same() -> None:
    both = seal(PAYLOAD, TWO.private, seal(PAYLOAD, ONE.private))
    assert unseal(both, BOTH) == (PAYLOAD, (ONE.id, TWO.id))
    assert unseal(both, TWO.trusted) == (PAYLOAD, (TWO.id,))
    again = seal(PAYLOAD, ONE.private, both)
    assert unseal(again, BOTH) == (PAYLOAD, (TWO.id, ONE.id))
    other = seal(b"{}", TWO.private, both)
    assert unseal(other, BOTH) == (b"{}", (TWO.id,))
    assert unseal(seal(PAYLOAD, TWO.private, b"no envelope"), BOTH) == (PAYLOAD, (TWO.id,))


def test_signature_that_is_none_does_not_spoil_another() -> None:
    """Whoever may write the file could keep it from ever being signed anew."""
    former = changed(signatures=[{"keyid": ONE.id, "sig": "!"}])
    assert unseal(seal(PAYLOAD, TWO.private, former), BOTH) == (PAYLOAD, (TWO.id,))


def test_signature_of_nobody_who_is_trusted_is_refused() -> None:
    with pytest.raises(BadEnvelope, match=f"by key {ONE.id}, which is not trusted; .*{TWO.id}"):
        unseal(seal(PAYLOAD, ONE.private), TWO.trusted)
    with pytest.raises(BadEnvelope, match="trusted: none"):
        unseal(seal(PAYLOAD, ONE.private), {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "document: "),
        (b"[" * 100_000, "document: "),
        (b"\xff{", "document: "),
        (changed(more=1), "more: Extra inputs"),
        (changed(payloadType="text/plain"), "payloadType: "),
        (changed(signatures=[]), "signatures: "),
        (changed(signatures=[{"keyid": ONE.id, "sig": "AAAA"}] * 17), "signatures: "),
        (changed(signatures=[{"keyid": ONE.id, "sig": "A" * 129}]), "signatures.0.sig: "),
        (changed(signatures=[{"keyid": ONE.id, "sig": "!"}]), f"of key {ONE.id} does not fit"),
        (changed(signatures=[{"keyid": "x\ny", "sig": "AAAA"}]), "signatures.0.keyid: "),
        (changed(payload="e30="), "the signature of key .* does not fit its content"),
        (changed(payload="e30"), "payload: is no base64"),
        (changed(signatures=[{"keyid": ONE.id, "sig": "AAAA"}]), "does not fit"),
    ],
)
def test_what_is_no_envelope_is_refused_by_its_field(content: bytes, reason: str) -> None:
    with pytest.raises(BadEnvelope, match=reason):
        unseal(content, BOTH)


def test_signature_of_one_key_does_not_pass_for_that_of_another() -> None:
    sealed = json.loads(seal(PAYLOAD, ONE.private))
    sealed["signatures"][0]["keyid"] = TWO.id
    with pytest.raises(BadEnvelope, match=f"the signature of key {TWO.id} does not fit"):
        unseal(json.dumps(sealed).encode(), BOTH)

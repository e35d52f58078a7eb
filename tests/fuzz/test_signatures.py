"""Whatever stands in signature.json or a file of keys is taken, or refused in one line."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.errors import NotTrusted
from serving.repository.signing.envelope import seal, unseal
from serving.repository.signing.keys import BadKey, parse_public_keys
from serving.repository.signing.statement import SIGNATURE_FILE, read_signature, sign_version
from tests.fuzz.changed import changed, check_line
from tests.support.mutation import changed_json
from tests.support.published import publish
from tests.support.signed import Signer

SIGNER = Signer()
with TemporaryDirectory() as _folder:
    _version = publish(Path(_folder))
    sign_version(_version, SIGNER.private)
    SIGNED = (_version / SIGNATURE_FILE).read_bytes()
ENVELOPE = json.loads(SIGNED)
STATEMENT = json.loads(unseal(SIGNED, SIGNER.trusted)[0])


def read(content: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name) / "colours" / "1"
        folder.mkdir(parents=True)
        (folder / SIGNATURE_FILE).write_bytes(content)
        try:
            statement, signers = read_signature(folder, SIGNER.trusted)
        except NotTrusted as error:
            check_line(error)
            return
    assert (statement.model, statement.version, signers) == ("colours", 1, (SIGNER.id,))


@settings(settings.get_profile("fuzz"))
@given(changed([ENVELOPE], changed_json))
@example(SIGNED)
@example(b"[" * 200_000)
@example(json.dumps({**ENVELOPE, "payload": "\ud800"}).encode())
@example(json.dumps({**ENVELOPE, "signatures": ENVELOPE["signatures"] * 10**5}).encode())
def test_an_envelope_is_opened_or_refused(content: bytes) -> None:
    read(content)


@settings(settings.get_profile("fuzz"))
@given(changed([STATEMENT], changed_json))
@example(json.dumps({**STATEMENT, "subject": STATEMENT["subject"] * 2}).encode())
@example(json.dumps({**STATEMENT, "predicate": {"version": 10**400}}).encode())
def test_a_statement_that_a_trusted_key_has_signed_is_read_or_refused(payload: bytes) -> None:
    read(seal(payload, SIGNER.private))


@settings(settings.get_profile("fuzz"))
@given(st.text() | st.text().map(lambda text: SIGNER.pem.replace("MCow", text)))
@example("-----BEGIN PUBLIC KEY-----" * 10_000)
@example(SIGNER.pem[:80])
def test_keys_are_read_or_refused(text: str) -> None:
    try:
        keys = parse_public_keys(text)
    except BadKey as error:
        check_line(error)
        return
    assert set(keys) <= {SIGNER.id}

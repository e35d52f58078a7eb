"""Whatever stands in a file that decides about callers, it is used as it says or refused in one
line: API keys, policies, key sets, certificates."""

import asyncio
import base64
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.errors import ModelNotReady, OverLimit, Unauthenticated
from serving.base.metrics import FrontMetrics
from serving.server.access.followed import BadFile, read_checked
from serving.server.access.keys import ApiKey, ApiKeys, digest_of, parse_keys, with_key
from serving.server.access.limits import Account
from serving.server.access.policy import ACTIONS, groups_of, parse_policy, rights_of
from serving.server.access.tokens import Tokens
from serving.server.access_config import JwtSettings
from serving.server.config import StartError
from serving.server.tls.certificates import Certificates
from tests.fuzz.changed import changed, check_text
from tests.support.certified import Certified
from tests.support.issuer import AUDIENCE, ISSUER, Issuer, rsa_key, symmetric
from tests.support.mutation import changed_bytes, changed_document, changed_json

METRICS = FrontMetrics()
SECRET, OTHER = "convserve_" + "s" * 43, "convserve_" + "t" * 43
KEYS = [
    f"# clinics\n{ApiKey('clinic', digest_of(SECRET)).line()}\n"
    f"{ApiKey('lab', digest_of(OTHER), 2e9).line()}\n",
    ApiKey("a@b.example", digest_of(SECRET), 1e9).line(),
]
POLICY = yaml.safe_load("""
groups:
  clinics:
    members: ["key:clinic-*", "cert:URI:spiffe://prod/ns/clinic/*", "jwt:[a-z]*"]
    rights:
      - {models: ["xray-*", "[!x]*"], actions: [infer, metadata]}
    limits: {requests_per_second: 50, images_per_second: 0.5, calls: 16, images_per_day: 100000}
  all:
    members: [anonymous, "*"]
    rights: [{models: ["*"], actions: [infer, metadata, statistics, load, settings, memory]}]
    limits: {pixels_per_second: 1e6, streams: 2, bytes_held: 1000000, requests_per_day: 10}
""")


def one_policy(limits: str, rights: str = "[{models: [m], actions: [infer]}]") -> bytes:
    return f"groups: {{a: {{members: ['*'], rights: {rights}, limits: {limits}}}}}".encode()


def changed_text(rng: random.Random, text: str) -> bytes:
    return changed_bytes(rng, text.encode())


def changed_policy(rng: random.Random, document: Any) -> bytes:
    """Changes of its structure, or of its text."""
    structure = rng.random() < 0.7
    told = yaml.safe_dump(changed_document(rng, document) if structure else document).encode()
    return told if structure else changed_bytes(rng, told)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "file"


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Keeps the lines about bad files back."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def check_line(error: Exception) -> None:
    """One line that says something, and repeats no key."""
    text = str(error)
    assert 0 < len(text) < 3000
    assert "\n" not in text
    assert SECRET not in text


def check_delay(error: OverLimit) -> None:
    check_text(error)
    assert 0 < error.retry_after <= 86_400


@settings(settings.get_profile("fuzz"))
@given(text=changed(KEYS, changed_text))
@example(text=f"clinic {SECRET} never".encode())
@example(text=b"clinic " + digest_of(SECRET).encode() + b" 9999-12-31T23:59:59-23:59")
@example(text=b"clinic " + digest_of(SECRET).encode() + b" 0001-01-01T00:00:00+23:59")
@example(text="clinic\u2028lab\x85never".encode())
@example(text="\u0441linic ".encode() + digest_of(SECRET).encode() + b" never")  # looks like a c
@example(text=b"clinic " + "\u0661".encode() * 64 + b" never")
@example(text=b"\n" * 200_000)
@example(text=b"c " * 100_000)
@example(text=b"\xff\xfec\0")
def test_a_file_of_keys(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    try:
        keys = read_checked(file, parse_keys)
    except BadFile as error:
        check_line(error)
        return
    now = time.time()
    found = ApiKeys(keys).key_of(SECRET, now)
    assert found is None or (found.digest == digest_of(SECRET) and found.expires > now)
    assert parse_keys("".join(key.line() + "\n" for key in keys)) == [
        key._replace(expires=float(math.floor(key.expires)) if key.expires < math.inf else math.inf)
        for key in keys
    ]
    more = with_key(text.decode("utf-8-sig"), ApiKey("new", digest_of("new")), now)
    assert ApiKeys(parse_keys(more)).key_of("new", now) is not None


@settings(settings.get_profile("fuzz"))
@given(text=changed([POLICY], changed_policy))
@example(text=one_policy("{requests_per_second: .inf}"))
@example(text=one_policy("{requests_per_second: 1e-320}"))
@example(text=one_policy("{pixels_per_second: 1e400}"))
@example(text=one_policy("{pixels_per_second: 1e-6}"))
@example(text=one_policy("{images_per_second: -0.0}"))
@example(text=one_policy("{calls: true}"))
@example(text=one_policy("{calls: 1.0}"))
@example(text=one_policy("{calls: '5'}"))
@example(text=one_policy("{requests_per_day: " + "9" * 4000 + "}"))
@example(text=one_policy("{requests_per_day: " + "9" * 5000 + "}"))
@example(text=one_policy("{calls: 1, calls: 2}"))
@example(text=one_policy("{calls: 1}").replace(b"}}}", b"}}, a: {members: ['*']}}"))
@example(text=one_policy("{calls: 1}", "[{models: ['" + "*a" * 149 + "'], actions: [infer]}]"))
@example(text=one_policy("{}", "[{models: ['[', '[!', '[z-a]', '[]', '\\'], actions: [infer]}]"))
@example(text=one_policy("{}", "[{models: [*x], actions: [infer]}]"))
@example(text=b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ngroups: [*c, *c]")
@example(text=b"a: &a {<<: *a}")
@example(text=b"&a [*a]")
@example(text=b"groups: &g {a: *g}")
@example(text=b"groups: {a: {members: &m ['*'], rights: *m}}")
@example(text=b"[" * 2_000)
@example(text=b"!!python/object/apply:os.system [false]")
@example(text=b"? {a: b}\n: c")
@example(text=b"groups: {1: {members: ['*']}, null: {members: ['*']}}")
def test_a_policy(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    try:
        policy = read_checked(file, parse_policy)
    except BadFile as error:
        check_line(error)
        return
    for names in (("key:clinic-1",), ("jwt:\u0430lice", "role:"), ("anonymous",), ("",)):
        rights = rights_of(policy, groups_of(policy, names))
        for model in ("xray-1", "", "a" * 5000, "\0", "../xray-1"):
            assert rights.on(model) <= rights.everywhere <= set(ACTIONS)
        if rights.limits is None:
            continue
        account = Account(rights.limits)
        for _ in range(3):
            try:
                account.enter()
                account.images(10**6)
                account.pixels(10**12)
            except OverLimit as error:
                check_delay(error)


PRIVATE, PUBLIC = rsa_key()
ISSUED = Issuer()
POINT = base64.urlsafe_b64encode(b"x" * 32).decode()
KEY_SET = {
    "keys": [
        *ISSUED.key_set()["keys"],
        PUBLIC | {"kid": "rsa", "use": "sig", "key_ops": ["verify"]},
        symmetric("secret", b"x" * 64),
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": POINT},
    ]
}  # fmt: skip


@settings(settings.get_profile("fuzz"))
@given(text=changed([KEY_SET, ISSUED.key_set()], changed_json))
@example(text=b'{"keys": ' + b"[" * 200_000)
@example(text=b'{"keys": {"a": 1}}')
@example(text=json.dumps({"keys": [KEY_SET["keys"][0]] * 1000}).encode())
@example(text=json.dumps({"keys": [[], 1, None, *ISSUED.key_set()["keys"]]}).encode())
@example(text=json.dumps({"keys": [PUBLIC | {"kid": "first", "alg": "none"}]}).encode())
@example(text=json.dumps({"keys": [PUBLIC | {"kid": "first", "n": "A" * 200_000}]}).encode())
@example(text=json.dumps({"keys": [PUBLIC | {"kid": "first", "e": "AA"}]}).encode())
@example(text=json.dumps({"keys": [{**ISSUED.key_set()["keys"][0], "kid": "../../etc"}]}).encode())
@example(text=json.dumps({"keys": [{**ISSUED.key_set()["keys"][0], "d": "AAAA"}]}).encode())
def test_a_key_set(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    known = Tokens(
        JwtSettings(ISSUER, AUDIENCE, str(file), ["ES256", "RS256", "EdDSA"], "roles"),
        METRICS.access_failures,
    )
    asyncio.run(known.start())
    for token in (ISSUED.token(), Issuer().token(), "a.b.c"):
        try:
            found = known.identity(token)
        except (Unauthenticated, ModelNotReady) as error:
            check_text(error)
        else:
            assert found.name == "jwt:alice"
            assert token != "a.b.c"
            kept = json.loads(text)["keys"]
            assert any(isinstance(key, dict) and key.get("kty") == "EC" for key in kept)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("certified"))


@settings(settings.get_profile("fuzz"))
@given(chosen=st.sampled_from(range(3)), seed=st.integers(0, (1 << 64) - 1))
def test_files_of_tls(certified: Certified, chosen: int, seed: int) -> None:
    rng = random.Random(seed)
    good = [certified.cert, certified.key, certified.ca]
    files = [certified.folder / f"changed-{path.name}" for path in good]
    for number, (path, file) in enumerate(zip(good, files, strict=True)):
        content = path.read_bytes()
        if number == chosen:
            other = rng.choice([*good, certified.tls.key, certified.tls.cert])
            assert other is not None
            content = changed_bytes(rng, rng.choice([content, content, other.read_bytes()]))
        file.write_bytes(content)
    try:
        made = Certificates(*files, certified.metrics)
    except StartError as error:
        check_line(error)
        return
    assert made.current.expires > time.time()
    assert made.required

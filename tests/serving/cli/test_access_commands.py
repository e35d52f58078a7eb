"""`convserve keys` and `convserve policy`."""

import fcntl
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import keys, policy
from serving.server.access.keys import ApiKeys, parse_keys

POLICY = """
groups:
  clinics:
    members: ["key:clinic-*"]
    rights: [{models: ["xray-*"], actions: [infer, metadata]}]
    limits: {requests_per_second: 5}
  operators:
    members: ["role:ops"]
    rights: [{models: ["*"], actions: [metadata, load]}]
"""


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    app = keys.app if arguments[0] == "keys" else policy.app
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout.strip(), result.stderr.strip()


def test_a_command_sees_what_another_wrote_while_it_waited(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for client in ("a", "b", "c"):
        assert run("keys", "new", str(file), client, "--expires", "2999-01-01")[0] == 0
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # another command is between reading and writing
    revoking = threading.Thread(target=run, args=("keys", "revoke", str(file), "a"))
    revoking.start()
    waits = re.compile(rf"-> FLOCK .*:{tmp_path.stat().st_ino} ")
    while not waits.search(Path("/proc/locks").read_text()):
        assert revoking.is_alive()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("b ")))
    os.close(folder)
    revoking.join()
    assert [key.client for key in parse_keys(file.read_text())] == ["c"]


def test_key_is_printed_once_and_the_file_has_its_digest_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    status, secret, told = run("keys", "new", str(file), "clinic-1", "--expires", "2999-01-01")
    assert status == 0
    assert "until 2999-01-01T00:00:00Z; send it as x-api-key" in told
    assert secret not in file.read_text() + told
    assert file.stat().st_mode & 0o777 == 0o600
    found = ApiKeys(parse_keys(file.read_text())).key_of(secret, time.time())
    assert found is not None
    assert found.client == "clinic-1"


def test_key_is_replaced_by_a_second_one_and_the_first_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n")
    file.chmod(0o640)
    _, first, told = run("keys", "new", str(file), "lab")
    first_id = told.split()[2]
    _, second, _ = run("keys", "new", str(file), "lab")
    status, _, told = run("keys", "new", str(file), "lab")
    assert (status, "has 2 keys already" in told) == (1, True)
    _, listed, _ = run("keys", "list", str(file), "--json")
    assert [line["client"] for line in json.loads(listed)] == ["lab", "lab"]
    assert json.loads(listed)[0] == {
        "client": "lab", "id": first_id, "expires": "never", "state": "good"
    }  # fmt: skip
    assert run("keys", "revoke", str(file), first_id)[1] == f"revoked {first_id} of lab"
    known = ApiKeys(parse_keys(file.read_text()))
    assert known.key_of(first, time.time()) is None
    assert known.key_of(second, time.time()) is not None
    assert file.read_text().startswith("# ours\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert run("keys", "revoke", str(file), "lab")[0] == 0
    assert file.read_text() == "# ours\n"
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_file_stays_its_owners_who_could_read_it_no_more(tmp_path: Path) -> None:
    """The server's user, whose file an administrator changes: keys that are revoked would live
    on."""
    file = tmp_path / "keys"
    run("keys", "new", str(file), "lab")
    os.chown(file, 12345, 23456)
    for arguments in (("new", str(file), "lab"), ("revoke", str(file), "lab")):
        assert run("keys", *arguments)[0] == 0
        found = file.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 23456, 0o600)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("new", "FILE", "a b"), "client: expected 1 to 64 letters"),
        (("new", "FILE", "lab", "--expires", "soon"), "--expires: expected never, a day"),
        (("new", "FILE", "lab", "--expires", "2001-01-01"), "expected a time to come"),
        (("new", "NONE/keys", "lab"), "cannot be written: No such file"),
        (("revoke", "FILE", "lab"), "no client and no key 'lab'"),
        (("revoke", "NONE", "lab"), "No such file"),
        (("list", "NONE"), "No such file"),
    ],
)
def test_mistake_gets_one_line(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("")
    none = str(tmp_path / "none")
    given = [word.replace("FILE", str(file)).replace("NONE", none) for word in arguments]
    status, _, told = run("keys", *given)
    assert status == 1
    assert expected in told
    assert "\n" not in told


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


def test_policy_is_checked_as_a_server_does(file: str, tmp_path: Path) -> None:
    status, told, _ = run("policy", "check", file)
    assert status == 0
    assert told.splitlines()[:2] == [
        "clinics: key:clinic-*; requests_per_second 5",
        "  infer, metadata on xray-*",
    ]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(POLICY.replace("members", "member"))
    status, _, told = run("policy", "check", str(wrong))
    assert status == 1
    assert "groups.clinics.member: unknown key; did you mean 'members'?" in told


@pytest.mark.parametrize(
    ("who", "model", "action", "status", "expected"),
    [
        ("key:clinic-1", "xray-1", "infer", 0, "allowed: clinics has infer on xray-*"),
        ("key:clinic-1", "xray-1", "load", 1, "refused: no group has load; the answer is PERM"),
        ("key:clinic-1", "other", "infer", 1, "refused: no group has a right to 'other'; the "),
        ("key:clinic-1,role:ops", "xray-1", "load", 0, "allowed: operators has load on *"),
        ("role:ops", "", "metadata", 0, "allowed: operators has metadata on *"),
        ("role:ops", "", "metrics", 1, "refused: no group has metrics"),
        ("anonymous", "xray-1", "infer", 1, "refused: in no group; without credentials"),
    ],
)
def test_policy_explains_itself(
    who: str, model: str, action: str, status: int, expected: str, file: str
) -> None:
    found, told, _ = run("policy", "explain", file, who, model, action)
    assert found == status
    assert told.splitlines()[-1].startswith(expected)
    if "clinic" in who:
        assert "limits of clinics; requests_per_second 5" in told


def test_action_that_is_none_is_named(file: str) -> None:
    status, _, told = run("policy", "explain", file, "anonymous", "m", "inferr")
    assert status == 1
    assert "ACTION: expected one of infer, metadata" in told

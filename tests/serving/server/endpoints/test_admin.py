"""Who is admin, and what the others are told."""

import logging
import os
from pathlib import Path

import pytest

from serving.base.errors import NotAllowed
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.server.access.caller import Caller
from serving.server.access_config import AdminGroup, AdminMode
from serving.server.config import StartError
from serving.server.config_sources import load_config
from serving.server.endpoints.admin import Admin, TokenFile, admin_of
from serving.server.endpoints.call import Call
from serving.server.endpoints.front import Front

TOKEN = "a-token-of-20-letters"
GROUPS: tuple[AdminGroup, ...] = ("repository", "settings", "memory")
SOCKET = Caller(None)
STRANGER = Caller("192.0.2.1")
LOOPBACK = Caller("127.0.0.1")
GONE = Caller("")


def call(caller: Caller) -> Call:
    front = Front(None, FrontMetrics(), MemoryBudget(1))  # type: ignore[arg-type]
    return front.control("Anything", lambda: caller)


def admin(
    mode: AdminMode = "socket", opened: tuple[str, ...] = (), token: TokenFile | None = None
) -> Admin:
    return Admin(mode, opened, token, explicit=True, memory=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("group", GROUPS)
def test_only_the_socket_is_admin_by_default(group: AdminGroup) -> None:
    assert admin().require(call(SOCKET), group) == "socket"
    for caller in (STRANGER, LOOPBACK, Caller("::1"), GONE, Caller("unix:")):
        with pytest.raises(NotAllowed, match=f"--admin-open {group}") as refusal:
            admin().require(call(caller), group)
        assert "--admin token" in str(refusal.value)
        assert not admin().allows(call(caller), group)


def test_nobody_is_admin_where_it_is_off() -> None:
    for caller in (SOCKET, LOOPBACK):
        with pytest.raises(NotAllowed, match="--admin socket, token or open permits them"):
            admin("off").require(call(caller), "settings")


def test_everybody_is_admin_where_it_is_open() -> None:
    assert admin("open").require(call(STRANGER), "memory") == "address 192.0.2.1"
    assert admin("open").require(call(SOCKET), "memory") == "socket"


def test_what_is_opened_by_name_is_open_and_nothing_else() -> None:
    some = admin("socket", ("memory",))
    assert some.require(call(STRANGER), "memory") == "address 192.0.2.1"
    for group in ("repository", "settings"):
        with pytest.raises(NotAllowed):
            some.require(call(STRANGER), group)


def test_calls_that_nobody_may_make_name_the_flag() -> None:
    closed = Admin("open", explicit=False, memory=False)
    with pytest.raises(NotAllowed, match="--model-control explicit"):
        closed.require(call(SOCKET), "repository")
    with pytest.raises(NotAllowed, match="--shared-memory PREFIX"):
        closed.require(call(SOCKET), "memory")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_token_is_admin_from_anywhere(scheme: str, file: Path) -> None:
    made = admin("token", token=TokenFile(file))
    holder = Caller("192.0.2.1", f"{scheme} {TOKEN}")
    assert made.require(call(holder), "repository") == "token"
    assert made.identity(holder) == "token"
    assert made.require(call(SOCKET), "repository") == "socket"
    with pytest.raises(NotAllowed) as refusal:
        made.require(call(LOOPBACK), "repository")
    assert str(refusal.value).endswith(
        ": it needs 'authorization: Bearer TOKEN'; --admin-open repository permits it to everybody"
    )


@pytest.mark.parametrize(
    "given",
    [
        "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN},Bearer {TOKEN}", "Bearer \ud800", "Bearer é", "Bearer " + "x" * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_the_token_is_refused(given: str, file: Path) -> None:
    made = admin("token", token=TokenFile(file))
    with pytest.raises(NotAllowed, match="has not the token") as refusal:
        made.require(call(Caller("192.0.2.1", given)), "settings")
    assert TOKEN not in str(refusal.value)


def test_token_is_read_anew_when_its_file_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = TokenFile(file)
    old, new = f"Bearer {TOKEN}", "Bearer another-token-of-20"
    other = file.with_name("other")
    other.write_text("another-token-of-20")
    other.chmod(0o600)
    other.replace(file)
    assert (token.matches(old), token.matches(new)) == (False, True)
    file.chmod(0o644)
    assert not any(token.matches(given) for given in (old, new, "Bearer "))
    file.unlink()
    assert not any(token.matches(given) for given in (old, new, "Bearer "))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    file.write_text(TOKEN)
    file.chmod(0o640)
    assert token.matches(old)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "expected 16 to 1024"),
        (b"\n", 0o600, "expected 16 to 1024"),
        (b"x" * 15, 0o600, "expected 16 to 1024"),
        (b"x" * 1025, 0o600, "expected 16 to 1024"),
        (b"two words of a token", 0o600, "expected 16 to 1024"),
        (b"\xff" * 20, 0o600, "expected 16 to 1024"),
        (TOKEN.encode(), 0o644, "read or written by others"),
        (TOKEN.encode(), 0o602, "read or written by others"),
        (TOKEN.encode(), 0o620, "read or written by others"),
    ],
)
def test_token_that_is_none_is_refused_at_start(
    content: bytes, mode: int, said: str, file: Path
) -> None:
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(StartError, match=f"--admin-token-file: .*{said}"):
        TokenFile(file)


def test_file_that_is_none_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="gone cannot be read: No such file"):
        TokenFile(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(StartError, match="expected 16 to 1024"):
        TokenFile(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, []),
        ({"admin": "off"}, []),
        ({"admin": "open"}, ["all"]),
        ({"admin_open": "settings,repository"}, ["repository,settings"]),
    ],
)
def test_log_warns_where_everybody_is_admin(
    settings: dict[str, str], warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    admin_of(load_config({"model_repository": "models", **settings}, {}))
    assert [record.__dict__["of"] for record in caplog.records] == warned
